// Every requirement of verify_checkpoint: a checkpoint of ours passes, and one that a test breaks
// in one place is reported with one sentence that names the place.
#include <gmock/gmock.h>

#include <cmath>

#include "export/declared_formats.h"
#include "export/hf_writer.h"
#include "export/inspect.h"
#include "export/test_support.h"

namespace vernier::exporting {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using namespace testing;  // NOLINT: test_support

const Source& latent() {
  static const Source source(golden("latent/checkpoint"));
  return source;
}

fs::path write_checkpoint(const fs::path& directory, const Source& source,
                          const quant::QuantPlan& plan, int64_t max_shard_bytes = 1'000'000) {
  HfWriterOptions options;
  options.directory = directory;
  options.source = source.directory;
  options.max_shard_bytes = max_shard_bytes;
  auto sink = make_hf_writer(options, source.tree(), plan, source.decls());
  feed(*sink, source, plan);
  sink->finish();
  return directory;
}

struct PlanCase {
  std::string name;
  Assign assign;
  std::string kv;
  bool is_cast = false;
};

class VerifyClean : public ::testing::TestWithParam<PlanCase> {};

TEST_P(VerifyClean, NothingToReport) {
  for (const std::string network : {"latent", "grouped"}) {
    const TempDir temp;
    const Source source(golden(network + "/checkpoint"));
    const auto plan =
        make_test_plan(source.tree(), GetParam().assign, GetParam().kv, GetParam().is_cast);
    EXPECT_THAT(verify_checkpoint(write_checkpoint(temp.make("one"), source, plan)), IsEmpty());
    EXPECT_THAT(verify_checkpoint(write_checkpoint(temp.make("many"), source, plan, 50'000)),
                IsEmpty());
  }
}

SiteFormats weight_only(const model::Module& module) {
  return is_projection(module) ? SiteFormats{"nvfp4", ""} : SiteFormats{};
}
SiteFormats experts_only(const model::Module& module) {
  return is_expert(module) ? SiteFormats{"nvfp4", "nvfp4"} : SiteFormats{};
}
SiteFormats nothing(const model::Module&) { return {}; }

INSTANTIATE_TEST_SUITE_P(Plans, VerifyClean,
                         ::testing::Values(PlanCase{"nothing", nothing, ""},
                                           PlanCase{"kv_only", nothing, "fp8_e4m3"},
                                           PlanCase{"fp8", all_fp8, "fp8_e4m3"},
                                           PlanCase{"nvfp4", all_nvfp4, "nvfp4"},
                                           PlanCase{"w4a16", weight_only, ""},
                                           PlanCase{"experts", experts_only, "fp8_e4m3", true},
                                           PlanCase{"mixed", mixed_formats, "fp8_e4m3"}),
                         [](const auto& info) { return info.param.name; });

using Formats = SiteFormats (*)(const model::Module&);

class Verify : public ::testing::Test {
 protected:
  fs::path write(const Assign& assign, const std::string& kv = "fp8_e4m3",
                 int64_t max_shard_bytes = 1'000'000) {
    return write_checkpoint(temp_.make("out" + std::to_string(n_written_++)), latent(),
                            make_test_plan(latent().tree(), assign, kv), max_shard_bytes);
  }
  // A copy of one that is written once: most of a case's time would go into syncing files.
  fs::path copy_of(Formats assign) {
    static const TempDir shared;
    static std::map<Formats, fs::path> written;
    fs::path& original = written[assign];
    if (original.empty()) {
      original = write_checkpoint(shared.make(std::to_string(written.size())), latent(),
                                  make_test_plan(latent().tree(), assign, "fp8_e4m3"));
    }
    const fs::path copy = temp_.make("out" + std::to_string(n_written_++));
    fs::copy(original, copy);
    return copy;
  }

  // The one violation of a checkpoint after a change of its tensors.
  std::string after(Formats assign, const std::function<void(LooseTensors&)>& edit) {
    const fs::path directory = copy_of(assign);
    edit_tensors(directory, edit);
    return only_violation(directory);
  }

  // ... after a change of one of its JSON files.
  std::string after_json(Formats assign, const char* file,
                         const std::function<void(io::Json&)>& edit) {
    const fs::path directory = copy_of(assign);
    edit_json(directory / file, edit);
    return only_violation(directory);
  }

  static std::string only_violation(const fs::path& directory) {
    const auto violations = verify_checkpoint(directory);
    EXPECT_THAT(violations, ::testing::SizeIs(1));
    return violations.empty() ? "" : violations[0];
  }

  TempDir temp_;
  int n_written_ = 0;
  const std::string in_proj_ = "backbone.layers.0.mixer.in_proj";
  const std::string expert_ = "backbone.layers.1.mixer.experts.3.up_proj";
};

TEST_F(Verify, MissingPlane) {
  EXPECT_EQ(after(all_nvfp4, [&](auto& t) { t.erase(expert_ + ".weight_scale_2"); }),
            expert_ + ".weight_scale_2 is missing, nvfp4 weights need it");
}

TEST_F(Verify, WrongShapeAndType) {
  EXPECT_EQ(after(all_fp8, [&](auto& t) { t[in_proj_ + ".weight_scale"].shape = {1}; }),
            "model.safetensors: " + in_proj_ + ".weight_scale is F32 [1], expected F32 []");
  EXPECT_EQ(
      after(all_nvfp4, [&](auto& t) { t[expert_ + ".weight_scale"].dtype = DType::kU8; }),
      "model.safetensors: " + expert_ + ".weight_scale is U8 [48, 2], expected F8_E4M3 [48, 2]");
  EXPECT_EQ(after(all_nvfp4,
                  [&](auto& t) {
                    t[expert_ + ".weight"].shape = {16, 48};
                  }),
            "model.safetensors: " + expert_ + ".weight is U8 [16, 48], expected U8 [48, 16]");
}

TEST_F(Verify, ScalesMustBePositiveAndFinite) {
  EXPECT_EQ(
      after(all_nvfp4, [&](auto& t) { t[expert_ + ".weight_scale_2"] = scalar(0); }),
      "model.safetensors: " + expert_ + ".weight_scale_2 is 0, expected a positive finite number");
  EXPECT_THAT(
      after(all_fp8, [&](auto& t) { t[in_proj_ + ".input_scale"] = scalar(std::nanf("")); }),
      HasSubstr(in_proj_ + ".input_scale is nan"));
  EXPECT_THAT(after(all_fp8, [&](auto& t) { t[in_proj_ + ".weight_scale"] = scalar(-1); }),
              HasSubstr(in_proj_ + ".weight_scale is -1"));
}

TEST_F(Verify, BlockScalesMustBePositive) {
  for (const uint8_t bad : {0x00, 0x7F, 0x80, 0xFF}) {
    EXPECT_EQ(
        after(all_nvfp4,
              [&](auto& t) { t[expert_ + ".weight_scale"].bytes[5] = static_cast<char>(bad); })
            .substr(19),
        expert_ +
            ".weight_scale holds 1 block scales that are zero, negative or NaN, the "
            "first 0x" +
            (bad == 0      ? "00"
             : bad == 0x7F ? "7f"
             : bad == 0x80 ? "80"
                           : "ff") +
            " at element 5");
  }
}

TEST_F(Verify, Fp8CodesMustNotBeNan) {
  EXPECT_THAT(after(all_fp8, [&](auto& t) { t[in_proj_ + ".weight"].bytes[9] = '\x7f'; }),
              HasSubstr(in_proj_ + ".weight holds 1 NaN codes, the first 0x7f at element 9"));
}

TEST_F(Verify, MissingInputScale) {
  EXPECT_THAT(
      after(all_nvfp4, [&](auto& t) { t.erase(expert_ + ".input_scale"); }),
      HasSubstr(expert_ + ".input_scale is missing, NVFP4 layers cannot be loaded without"));
}

TEST_F(Verify, WeightOnlyFp8IsNotLoadable) {
  const fs::path directory = write([](const model::Module& module) {
    return module.name == "lm_head" ? SiteFormats{"fp8_e4m3", ""} : mixed_formats(module);
  });
  EXPECT_THAT(only_violation(directory),
              HasSubstr("lm_head.input_scale is missing, FP8 layers cannot be loaded without it "
                        "(there is no weight-only FP8 in servers)"));
}

TEST_F(Verify, QuantizedEmbeddingIsNotLoadable) {
  const fs::path directory = write([](const model::Module& module) {
    return module.kind == model::ModuleKind::kEmbedding ? SiteFormats{"nvfp4", ""}
                                                        : mixed_formats(module);
  });
  EXPECT_EQ(only_violation(directory),
            "backbone.embeddings is in nvfp4; vLLM builds the embedding without quantization and "
            "cannot load it");
}

TEST_F(Verify, RouterAndConvolutionStayUnquantized) {
  EXPECT_THAT(after(all_fp8,
                    [&](auto& t) {
                      auto& gate = t["backbone.layers.1.mixer.gate.weight"];
                      gate = {DType::kU8, gate.shape, gate.bytes.substr(0, gate.bytes.size() / 2)};
                    }),
              HasSubstr("gate.weight has the element type U8, servers expect it unquantized"));
  EXPECT_THAT(after(all_fp8,
                    [&](auto& t) { t["backbone.layers.0.mixer.conv1d.weight_scale"] = scalar(1); }),
              HasSubstr("conv1d.weight_scale stands beside a weight that is not quantized"));
  EXPECT_THAT(after(all_fp8,
                    [&](auto& t) {
                      t["backbone.layers.1.mixer.gate.e_score_correction_bias"] = {
                          DType::kBF16, {8}, std::string(16, '\0')};
                    }),
              HasSubstr("e_score_correction_bias has the element type BF16, routers need F32"));
}

TEST_F(Verify, MissingTensors) {
  EXPECT_THAT(after(all_fp8, [&](auto& t) { t.erase("backbone.norm_f.weight"); }),
              HasSubstr("backbone.norm_f.weight is missing"));
  EXPECT_THAT(after(all_fp8,
                    [&](auto& t) {
                      t["backbone.norm_f.weight"].shape = {8, 8};
                    }),
              HasSubstr("backbone.norm_f.weight has shape [8, 8], expected [64]"));
  EXPECT_THAT(after(mixed_formats, [&](auto& t) { t.erase("lm_head.weight"); }),
              HasSubstr("lm_head.weight is missing"));
}

TEST_F(Verify, FusedProjectionsShareTheirGlobalScale) {
  EXPECT_THAT(
      after(all_nvfp4,
            [&](auto& t) { t["backbone.layers.2.mixer.k_proj.weight_scale_2"] = scalar(0.5f); }),
      HasSubstr("q_proj and backbone.layers.2.mixer.k_proj have different weight_scale_2"));
}

TEST_F(Verify, FusedProjectionsShareTheirFormat) {
  const fs::path directory = write([](const model::Module& module) {
    return module.name.find("v_proj") != std::string::npos ? SiteFormats{"fp8_e4m3", "fp8_e4m3"}
                                                           : all_nvfp4(module);
  });
  EXPECT_THAT(only_violation(directory),
              HasSubstr("q_proj and backbone.layers.2.mixer.v_proj are in different formats, but "
                        "servers fuse them"));
}

TEST_F(Verify, ExpertsOfALayerShareTheirFormat) {
  const fs::path directory = write([](const model::Module& module) {
    return module.expert == 2 ? SiteFormats{"fp8_e4m3", "fp8_e4m3"} : mixed_formats(module);
  });
  EXPECT_THAT(verify_checkpoint(directory),
              ElementsAre(HasSubstr("layers.1.mixer.experts.0.up_proj is in nvfp4 and "
                                    "backbone.layers.1.mixer.experts.2.up_proj in fp8_e4m3; the "
                                    "experts of one layer must share a format"),
                          HasSubstr("layers.3.mixer.experts.0.up_proj")));
}

TEST_F(Verify, KvScales) {
  const std::string k = "backbone.layers.2.mixer.k_proj.k_scale";
  EXPECT_THAT(after(all_fp8, [&](auto& t) { t.erase(k); }),
              HasSubstr(k + " is missing, other layers have theirs"));
  EXPECT_THAT(after(all_fp8, [&](auto& t) { t[k] = scalar(0); }), HasSubstr(k + " is 0"));
  EXPECT_THAT(after(all_fp8, [&](auto& t) { t[k].shape = {1}; }),
              HasSubstr(k + " is F32 [1], expected F32 []"));
  const fs::path directory = write(all_fp8, "");
  edit_tensors(directory, [](auto& t) {
    t["backbone.layers.2.mixer.k_proj.k_scale"] = scalar(1);
    t["backbone.layers.2.mixer.v_proj.v_scale"] = scalar(1);
  });
  EXPECT_THAT(only_violation(directory),
              HasSubstr(k + " is there but no kv_cache_quant_algo is declared"));
}

TEST_F(Verify, BothConfigurationsAreThere) {
  const fs::path no_quant = copy_of(all_fp8);
  fs::remove(no_quant / "hf_quant_config.json");
  EXPECT_THAT(only_violation(no_quant), HasSubstr("hf_quant_config.json: is missing"));
  EXPECT_THAT(after_json(all_fp8, "config.json", [](auto& j) { j.erase("quantization_config"); }),
              HasSubstr("config.json: has no quantization_config"));
}

TEST_F(Verify, ConfigurationsAgree) {
  const auto contradiction = [&](Formats assign, const char* key, const io::Json& value) {
    return after_json(assign, "config.json",
                      [&](auto& j) { j["quantization_config"][key] = value; });
  };
  EXPECT_EQ(contradiction(all_fp8, "quant_algo", "NVFP4"),
            "config.json: quantization_config.quant_algo contradicts hf_quant_config.json");
  EXPECT_THAT(contradiction(all_fp8, "ignore", {"lm_head"}), HasSubstr(".ignore contradicts"));
  EXPECT_THAT(contradiction(mixed_formats, "quantized_layers", io::Json::object()),
              HasSubstr(".quantized_layers contradicts"));
  EXPECT_THAT(contradiction(all_fp8, "kv_cache_scheme", "NVFP4"),
              HasSubstr(".kv_cache_scheme contradicts"));
  EXPECT_THAT(contradiction(all_fp8, "quant_method", "fp8"),
              HasSubstr("quant_method is \"fp8\", expected \"modelopt\""));
}

// A change of the "quantization" object in hf_quant_config.json.
struct QuantEdit {
  Formats assign;
  std::function<void(io::Json&)> edit;
  std::string message;
};

TEST_F(Verify, QuantizationObject) {
  const QuantEdit cases[] = {
      {all_nvfp4, [](io::Json& q) { q.erase("exclude_modules"); }, "has no exclude_modules"},
      {all_nvfp4, [](io::Json& q) { q.erase("group_size"); },
       "group_size is null, NVFP4 has groups of 16"},
      {all_nvfp4, [](io::Json& q) { q["exclude_modules"] = "lm_head"; },
       "exclude_modules is not a list of strings"},
      {all_nvfp4, [](io::Json& q) { q["quant_algo"] = "NVFP4_AWQ"; },
       "the quant_algo NVFP4_AWQ is not one that every server reads"},
      {all_nvfp4, [](io::Json& q) { q["quant_algo"] = 4; },
       "quant_algo is neither a string nor null"},
      {all_nvfp4, [](io::Json& q) { q.erase("kv_cache_quant_algo"); },
       "has no kv_cache_quant_algo"},
      {all_nvfp4, [](io::Json& q) { q["kv_cache_quant_algo"] = "INT8"; },
       "the kv_cache_quant_algo INT8 is neither FP8 nor NVFP4"},
      {mixed_formats, [](io::Json& q) { q["quantized_layers"] = io::Json::object(); },
       "needs a quantized_layers that is not empty"},
      {mixed_formats, [](io::Json& q) { q["quantized_layers"] = 3; },
       "quantized_layers is not an object"},
      {mixed_formats, [](io::Json& q) { q["quantized_layers"]["a"] = "FP8"; },
       "quantized_layers: a has no quant_algo"},
      {mixed_formats,
       [](io::Json& q) {
         q["quantized_layers"]["a"] = {{"quant_algo", "MXFP8"}};
       },
       "quantized_layers: a has the quant_algo MXFP8"},
      {mixed_formats,
       [&](io::Json& q) { q["quantized_layers"][expert_]["group_size"] = "sixteen"; },
       expert_ + ": group_size is \"sixteen\", NVFP4 has groups of 16"},
  };
  for (const QuantEdit& bad : cases) {
    const fs::path directory = copy_of(bad.assign);
    edit_json(directory / "hf_quant_config.json",
              [&](io::Json& json) { bad.edit(json["quantization"]); });
    EXPECT_THAT(verify_checkpoint(directory),
                ElementsAre(::testing::AllOf(::testing::StartsWith("hf_quant_config.json: "),
                                             HasSubstr(bad.message))));
  }
}

// Both configurations rewritten by the same change.
class VerifyDeclared : public Verify {
 protected:
  std::vector<std::string> after_both(Formats assign, const std::function<void(io::Json&)>& edit) {
    const fs::path directory = copy_of(assign);
    edit_json(directory / "hf_quant_config.json", [&](io::Json& j) { edit(j["quantization"]); });
    edit_json(directory / "config.json", [&](io::Json& j) {
      io::Json& embedded = j["quantization_config"];
      io::Json both = {{"exclude_modules", embedded["ignore"]}};
      if (embedded.contains("quantized_layers")) {
        both["quantized_layers"] = embedded["quantized_layers"];
      }
      edit(both);
      embedded["ignore"] = both["exclude_modules"];
      if (both.contains("quantized_layers"))
        embedded["quantized_layers"] = both["quantized_layers"];
    });
    return verify_checkpoint(directory);
  }
};

TEST_F(VerifyDeclared, ExclusionBySubstringHitsAnotherModule) {
  EXPECT_THAT(
      after_both(all_fp8,
                 [](io::Json& q) { q["exclude_modules"].push_back("backbone.layers.0.mixer.in"); }),
      ElementsAre("backbone.layers.0.mixer.in_proj is in fp8_e4m3 but the exclude_modules "
                  "entry \"backbone.layers.0.mixer.in\" excludes it"));
}

TEST_F(VerifyDeclared, UnquantizedModuleMustBeExcluded) {
  EXPECT_THAT(after_both(all_fp8,
                         [](io::Json& q) {
                           q["exclude_modules"] = {"backbone.embeddings", "conv1d", "gate"};
                         }),
              ElementsAre("lm_head is declared FP8 but its weight is not quantized and no entry of "
                          "exclude_modules covers it"));
}

TEST_F(VerifyDeclared, MixedListsExactlyTheQuantized) {
  EXPECT_THAT(after_both(mixed_formats,
                         [&](io::Json& q) {
                           if (q.contains("quantized_layers"))
                             q["quantized_layers"].erase(in_proj_);
                         }),
              ElementsAre(in_proj_ + " is in fp8_e4m3 but quantized_layers does not list it"));
  EXPECT_THAT(after_both(mixed_formats,
                         [](io::Json& q) {
                           q["quantized_layers"]["lm_head"] = {{"quant_algo", "FP8"}};
                         }),
              ElementsAre("lm_head is declared FP8 but its weight is not quantized"));
  EXPECT_THAT(
      after_both(mixed_formats,
                 [&](io::Json& q) {
                   q["quantized_layers"][in_proj_] = {{"quant_algo", "NVFP4"}, {"group_size", 16}};
                 }),
      ElementsAre(in_proj_ + " is declared NVFP4 but its weight is in fp8_e4m3"));
  EXPECT_THAT(after_both(mixed_formats,
                         [](io::Json& q) {
                           q["quantized_layers"]["backbone.layers.9.x"] = {{"quant_algo", "FP8"}};
                         }),
              ElementsAre("hf_quant_config.json: quantized_layers names backbone.layers.9.x, which "
                          "the model does not have"));
}

TEST_F(VerifyDeclared, MixedAcceptsTheContainerOfFusedExperts) {
  EXPECT_THAT(
      after_both(mixed_formats,
                 [](io::Json& q) {
                   io::Json layers = io::Json::object();
                   for (const auto& item : q["quantized_layers"].items()) {
                     const size_t end = item.key().find(".experts.");
                     layers[end == std::string::npos ? item.key() : item.key().substr(0, end + 8)] =
                         item.value();
                   }
                   q["quantized_layers"] = layers;
                 }),
      IsEmpty());
}

TEST_F(Verify, MtpStaysUnquantizedAndExcluded) {
  const auto add_mtp = [](DType dtype, int64_t n) {
    return [=](LooseTensors& t) {
      t["mtp.layers.0.eh_proj.weight"] = {dtype, {n}, std::string(8, '\x01')};
    };
  };
  EXPECT_THAT(after(all_fp8, add_mtp(DType::kBF16, 4)),
              HasSubstr("exclude_modules does not cover mtp.layers.0.eh_proj; a draft model would "
                        "read it as FP8"));
  EXPECT_THAT(after(mixed_formats, add_mtp(DType::kU8, 8)),
              HasSubstr("mtp.layers.0.eh_proj.weight has the element type U8, MTP layers must stay "
                        "unquantized"));
}

TEST_F(Verify, CapitalLettersInNames) {
  EXPECT_THAT(after(all_fp8,
                    [](auto& t) {
                      t["backbone.layers.0.Dense"] = {DType::kBF16, {1}, "ab"};
                    }),
              HasSubstr("backbone.layers.0.Dense has a capital A or D in its name"));
}

TEST_F(Verify, QuantizedWithoutADeclaration) {
  const fs::path directory = write([](const model::Module& module) {
    return module.name == "lm_head" ? SiteFormats{"fp8_e4m3", "fp8_e4m3"} : SiteFormats{};
  });
  fs::remove(directory / "hf_quant_config.json");
  edit_json(directory / "config.json", [](auto& j) { j.erase("quantization_config"); });
  EXPECT_THAT(verify_checkpoint(directory),
              ::testing::Contains("lm_head is in fp8_e4m3 but no quant_algo is declared"));
}

TEST_F(Verify, IndexTotalSize) {
  const fs::path directory = write(all_fp8, "fp8_e4m3", 100'000);
  edit_json(directory / "model.safetensors.index.json",
            [](auto& j) { j["metadata"]["total_size"] = 7; });
  EXPECT_THAT(only_violation(directory), HasSubstr("metadata.total_size is 7, the tensors have "));
  edit_json(directory / "model.safetensors.index.json", [](auto& j) { j.erase("metadata"); });
  EXPECT_THAT(only_violation(directory), HasSubstr("metadata has no total_size"));
}

TEST_F(Verify, StrayShard) {
  const fs::path directory = copy_of(all_fp8);
  fs::copy_file(directory / "model.safetensors", directory / "model-00001-of-00002.safetensors");
  EXPECT_THAT(only_violation(directory),
              HasSubstr("model-00001-of-00002.safetensors: is not part of the checkpoint"));
}

TEST_F(Verify, FilesThatDoNotOpenAreOneViolation) {
  const fs::path directory = copy_of(all_fp8);
  const std::string bytes = read_file(directory / "model.safetensors");
  write_file(directory / "model.safetensors", bytes.substr(0, bytes.size() - 1));
  EXPECT_THAT(only_violation(directory), HasSubstr("model.safetensors"));
  write_file(directory / "model.safetensors", bytes);
  write_file(directory / "hf_quant_config.json", "[]");
  EXPECT_THAT(only_violation(directory), HasSubstr("hf_quant_config.json: expected a JSON object"));
  fs::remove(directory / "config.json");
  EXPECT_THAT(only_violation(directory), HasSubstr("config.json: no such file"));
}

TEST_F(Verify, MetadataSaysPytorch) {
  const fs::path directory = copy_of(all_fp8);
  std::string bytes = read_file(directory / "model.safetensors");
  const size_t at = bytes.find("\"format\":\"pt\"");
  ASSERT_NE(at, bytes.npos);
  bytes.replace(at, 13, "\"format\":\"np\"");
  write_file(directory / "model.safetensors", bytes);
  EXPECT_THAT(only_violation(directory), HasSubstr("__metadata__ has no \"format\": \"pt\""));
}

TEST(ExcludeList, MatchesAsVllmDoes) {
  const ExcludeList list({"a.b*", "x.*", "head", "layers.1.*"});
  EXPECT_NE(list.find("a.b"), nullptr);
  EXPECT_NE(list.find("a.b.c"), nullptr);
  EXPECT_NE(list.find("a.bc"), nullptr);        // substring of the stem
  EXPECT_NE(list.find("prefix.a.b"), nullptr);  // and anywhere
  EXPECT_NE(list.find("x.y.z"), nullptr);
  EXPECT_EQ(list.find("y.x"), nullptr);
  EXPECT_NE(list.find("lm_head"), nullptr);
  EXPECT_EQ(list.find("layers.10.mixer"), nullptr);
  EXPECT_EQ(*list.find("layers.1.mixer"), "layers.1.*");
}

TEST(Inspect, RowsOfAMixedCheckpoint) {
  const TempDir temp;
  const auto plan = make_test_plan(latent().tree(), mixed_formats, "fp8_e4m3");
  const fs::path directory = write_checkpoint(temp.make("out"), latent(), plan);
  const Inspection inspection = inspect_checkpoint(directory);
  EXPECT_EQ(inspection.kv_format, "fp8_e4m3");
  EXPECT_EQ(inspection.size_bytes,
            static_cast<int64_t>(fs::file_size(directory / "model.safetensors")));
  EXPECT_EQ(inspection.modules.size(), plan.sites.size());
  EXPECT_NEAR(inspection.bits_per_weight, plan.bits_per_weight(), 1e-12);
  for (const ModuleRow& row : inspection.modules) {
    if (row.name != "backbone.layers.1.mixer.experts.3.up_proj") continue;
    EXPECT_EQ(row.format, "nvfp4");
    EXPECT_EQ(row.input_format, "nvfp4");
    EXPECT_EQ(row.n, 48);
    EXPECT_EQ(row.k, 32);
    EXPECT_EQ(row.bytes, 48 * 16 + 48 * 2 + 4);
    EXPECT_EQ(row.bits_per_weight, 4.5);
    EXPECT_GT(row.min_block_scale, 0);
    EXPECT_EQ(row.max_block_scale, 448);
    EXPECT_GT(row.input_scale, 0);
  }
  EXPECT_EQ(to_json(inspection)["modules"].size(), inspection.modules.size());
}

}  // namespace
}  // namespace vernier::exporting
