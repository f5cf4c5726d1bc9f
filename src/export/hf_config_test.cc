#include "export/hf_config.h"

#include <gmock/gmock.h>

#include <set>

#include "export/published_names.h"
#include "export/test_support.h"

namespace vernier::exporting {
namespace {

using io::Json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace testing;  // NOLINT: test_support

std::vector<std::string> texts(const Json& list) { return list.get<std::vector<std::string>>(); }

TEST(SummarizeExcluded, EqualsThePeersFunction) {
  for (const Json& row : io::read_json(golden("modelopt/exclude_modules.json"))) {
    EXPECT_EQ(summarize_excluded(texts(row["quantized"]), texts(row["unquantized"])),
              texts(row["exclude_modules"]))
        << row["title"];
  }
}

// Layers 0 and 2 are Mamba, 1 and 10 MoE with quantized experts, 3 attention.
TEST(SummarizeExcluded, ExpertsOnly) {
  const std::string layer = "backbone.layers.";
  std::vector<std::string> quantized, unquantized = {"lm_head", "backbone.embeddings"};
  for (const std::string moe : {"1", "10"}) {
    for (const std::string expert : {"0", "1"}) {
      quantized.push_back(layer + moe + ".mixer.experts." + expert + ".up_proj");
    }
    for (const std::string name : {"gate", "fc1_latent_proj", "shared_experts.up_proj"}) {
      unquantized.push_back(layer + moe + ".mixer." + name);
    }
  }
  for (const std::string other : {"0", "2", "3"}) unquantized.push_back(layer + other + ".mixer.x");
  EXPECT_THAT(
      summarize_excluded(quantized, unquantized),
      ElementsAre("backbone.embeddings", "backbone.layers.0*",
                  "backbone.layers.1.mixer.fc1_latent_proj", "backbone.layers.1.mixer.gate",
                  "backbone.layers.1.mixer.shared_experts*",
                  "backbone.layers.10.mixer.fc1_latent_proj", "backbone.layers.10.mixer.gate",
                  "backbone.layers.10.mixer.shared_experts*", "backbone.layers.2*",
                  "backbone.layers.3*", "lm_head"));
}

TEST(FindMtpPrefixes, RootAndLayers) {
  EXPECT_THAT(find_mtp_prefixes({"mtp.layers.0.norm.weight", "mtp.layers.0.mixer.q_proj.weight",
                                 "mtp.layers.1.norm.weight", "mtpx.weight", "other.mtp.weight"}),
              ElementsAre("mtp", "mtp.layers.0", "mtp.layers.1"));
  EXPECT_TRUE(find_mtp_prefixes({"vision.weight"}).empty());
}

TEST(QuantizationConfig, EqualsThePeersConverter) {
  for (const Json& row : io::read_json(golden("modelopt/quantization_config.json"))) {
    EXPECT_EQ(io::dump_json(quantization_config(row["hf_quant_config"]), 4),
              io::dump_json(row["quantization_config"], 4))
        << row["title"];
  }
}

TEST(PublishedNames, EveryRowNamesRegisteredFormats) {
  for (const PublishedAlgorithm& row : published_algorithms()) {
    EXPECT_NE(formats::find_format(row.weight_format), nullptr) << row.name;
    if (!row.input_format.empty()) {
      EXPECT_NE(formats::find_format(row.input_format), nullptr) << row.name;
    }
  }
}

TEST(PublishedNames, PairWithoutANameIsRejected) {
  EXPECT_EQ(error_of([] {
              published_algorithm(*formats::find_format("nvfp4"), formats::find_format("fp8_e4m3"));
            }),
            "weights in nvfp4 with inputs in fp8_e4m3: a published checkpoint has no name for this "
            "pair of formats");
  EXPECT_THAT(error_of([] { published_kv_name(formats::bf16_format()); }),
              HasSubstr("a KV cache in bf16"));
}

// One whole-model export of the peer: what it quantized is read off its tensors, and from that plan
// our descriptions must say what its descriptions say.
class PeerExport : public ::testing::TestWithParam<std::string> {
 protected:
  static Assign formats_in(const Json& tensors) {
    return [&tensors](const model::Module& module) -> SiteFormats {
      const auto weight = tensors.find(module.tensors[0].name);
      if (weight == tensors.end()) return {};
      const std::string format = (*weight)["dtype"] == "U8" ? "nvfp4" : "fp8_e4m3";
      return {format, tensors.contains(module.name + ".input_scale") ? format : ""};
    };
  }

  // The peer lists fused experts once, as their container; we list every expert.
  static std::map<std::string, Json> by_container(const Json& layers) {
    std::map<std::string, Json> found;
    for (const auto& item : layers.items()) {
      const size_t end = item.key().find(".experts.");
      found[end == std::string::npos ? item.key() : item.key().substr(0, end + 8)] = item.value();
    }
    return found;
  }
};

TEST_P(PeerExport, SamePlanGivesTheSameDescription) {
  const std::string network = GetParam().substr(0, GetParam().find('/'));
  const Source source(golden(network + "/checkpoint"));
  const Json tensors = io::read_json(golden("modelopt/" + GetParam() + "/tensors.json"))["tensors"];
  const Json expected = io::read_json(golden("modelopt/" + GetParam() + "/hf_quant_config.json"));
  const Json kv = expected["quantization"]["kv_cache_quant_algo"];
  const auto has_scale = [&](const model::AttentionSite& site) {
    return tensors.contains(site.k_proj + ".k_scale");
  };
  const auto& sites = source.tree().attentions();
  const bool is_cast = std::none_of(sites.begin(), sites.end(), has_scale);
  const quant::QuantPlan plan = make_test_plan(source.tree(), formats_in(tensors),
                                               kv.is_null()  ? ""
                                               : kv == "FP8" ? "fp8_e4m3"
                                                             : "nvfp4",
                                               is_cast);

  const Json found = hf_quant_config(plan, source.tree(), {});
  EXPECT_EQ(found["producer"], expected["producer"]);
  const Json& ours = found["quantization"];
  const Json& theirs = expected["quantization"];
  for (const char* key : {"quant_algo", "kv_cache_quant_algo", "group_size"}) {
    EXPECT_EQ(ours.value(key, Json()), theirs.value(key, Json())) << key;
  }
  // Sorted by in-memory names there ("model." after "lm_head"), by checkpoint names here.
  const auto as_set = [](const Json& object) {
    const auto list = object.value("exclude_modules", std::vector<std::string>());
    return std::set<std::string>(list.begin(), list.end());
  };
  EXPECT_EQ(as_set(ours), as_set(theirs));
  EXPECT_EQ(ours.contains("exclude_modules"), theirs.contains("exclude_modules"));
  EXPECT_EQ(by_container(ours.value("quantized_layers", Json::object())),
            by_container(theirs.value("quantized_layers", Json::object())));

  std::set<std::string> written;
  for (const auto& item : tensors.items()) written.insert(item.key());
  for (const quant::SitePlan& site : plan.sites) {
    if (!site.is_quantized()) continue;
    for (const formats::PlaneSpec& plane : site.weight_format->planes) {
      const std::string name = site.module->name + "." + std::string(plane.suffix);
      EXPECT_EQ(tensors[name]["dtype"], dtype_info(plane.dtype).name);
      EXPECT_EQ(tensors[name]["shape"].get<Shape>(), plane.shape(site.module->n, site.module->k));
      written.erase(name);
    }
    written.erase(site.module->name + ".input_scale");
  }
  for (const model::AttentionSite& site : sites) {
    written.erase(site.k_proj + ".k_scale");
    written.erase(site.v_proj + ".v_scale");
  }
  EXPECT_TRUE(written.empty()) << *written.begin() << " is not a plane of ours";
}

std::vector<std::string> peer_exports() {
  std::vector<std::string> names;
  for (const std::string network : {"latent", "grouped"}) {
    for (const auto& entry : fs::directory_iterator(golden("modelopt/" + network))) {
      if (fs::exists(entry.path() / "hf_quant_config.json")) {
        names.push_back(network + "/" + entry.path().filename().string());
      }
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

INSTANTIATE_TEST_SUITE_P(Golden, PeerExport, ::testing::ValuesIn(peer_exports()),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) {
                             if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
                           }
                           return name;
                         });

TEST(HfQuantConfig, MtpPatternsFollowTheOtherExclusionsAndCreateTheList) {
  const Source source(golden("latent/checkpoint"));
  const auto uniform = make_test_plan(source.tree(), all_fp8);
  const auto excluded = texts(hf_quant_config(
      uniform, source.tree(), {"mtp", "mtp.layers.0"})["quantization"]["exclude_modules"]);
  ASSERT_GE(excluded.size(), 2u);
  EXPECT_EQ(excluded[excluded.size() - 2], "mtp*");
  EXPECT_EQ(excluded.back(), "mtp.layers.0*");

  const auto mixed = make_test_plan(source.tree(), mixed_formats);
  EXPECT_THAT(
      texts(hf_quant_config(mixed, source.tree(), {"mtp"})["quantization"]["exclude_modules"]),
      ElementsAre("mtp*"));
}

TEST(HfQuantConfig, NothingQuantizedDescribesNothing) {
  const Source source(golden("latent/checkpoint"));
  const auto plan = make_test_plan(source.tree(), [](const auto&) { return SiteFormats{}; });
  EXPECT_FALSE(describes_quantization(hf_quant_config(plan, source.tree(), {})));
}

TEST(HfQuantConfig, QuantizedLayersAreInNetworkOrder) {
  const Source source(golden("latent/checkpoint"));
  const auto plan = make_test_plan(source.tree(), mixed_formats);
  std::vector<std::string> names;
  const Json config = hf_quant_config(plan, source.tree(), {});
  for (const auto& item : config["quantization"]["quantized_layers"].items()) {
    names.push_back(item.key());
  }
  std::vector<std::string> expected;
  for (const model::Module& module : source.tree().modules()) {
    const bool is_linear = module.kind == model::ModuleKind::kLinear;
    if (is_linear && mixed_formats(module).weight != "bf16") expected.push_back(module.name);
  }
  EXPECT_EQ(names, expected);
}

}  // namespace
}  // namespace vernier::exporting
