#include "export/sharded_checkpoint.h"

#include <gmock/gmock.h>

#include "export/inspect.h"
#include "export/sharded_test_support.h"
#include "model/stored_model.h"

namespace vernier::exporting {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using namespace testing;  // NOLINT: test_support

using Sharded = ShardedTest;

TEST_F(Sharded, ExportGivesTheBytesOfADirectExport) {
  const auto plan = make_test_plan(source_.tree(), mixed_formats, "fp8_e4m3");
  const ShardedCheckpoint checkpoint = open_sharded(write("sharded", plan));
  EXPECT_EQ(read_directory(export_to("exported", checkpoint)),
            read_directory(export_directly("direct", plan)));
}

TEST_F(Sharded, RecordsComeBack) {
  auto plan = make_test_plan(source_.tree(), mixed_formats, "nvfp4", true);
  quant::SitePlan& site = plan.sites[1];
  site.scale_rule = {formats::ScaleMethod::kMultipliers, true, true, 1.0f, 1.5f, 0.1f};
  site.weight_rule = "*in_proj* (a.yaml)";
  site.constant_input_amax = 0.1f;
  plan.left_unquantized.push_back(plan.sites.back().module);
  const ShardedCheckpoint checkpoint = open_sharded(write("sharded", plan));
  EXPECT_EQ(checkpoint.recipe_name, "test recipe");
  EXPECT_EQ(checkpoint.mamba_ssm_cache_dtype, "float16");
  EXPECT_EQ(checkpoint.arithmetic, formats::Arithmetic::kCuda);
  EXPECT_TRUE(checkpoint.stored.is_quantized);
  ASSERT_EQ(checkpoint.plan.sites.size(), plan.sites.size());
  for (size_t index = 0; index < plan.sites.size(); ++index) {
    const quant::SitePlan& found = checkpoint.plan.sites[index];
    const quant::SitePlan& expected = plan.sites[index];
    EXPECT_EQ(found.module->name, expected.module->name);
    EXPECT_EQ(found.weight_format, expected.weight_format);
    EXPECT_EQ(found.input_format, expected.input_format);
    EXPECT_EQ(found.scale_rule, expected.scale_rule);
    EXPECT_EQ(found.constant_input_amax, expected.constant_input_amax);
    EXPECT_EQ(found.weight_rule, expected.weight_rule);
  }
  EXPECT_EQ(checkpoint.plan.kv_format(), formats::find_format("nvfp4"));
  EXPECT_TRUE(checkpoint.plan.kv_is_cast());
  ASSERT_EQ(checkpoint.plan.left_unquantized.size(), 1u);
  EXPECT_EQ(checkpoint.plan.left_unquantized[0]->name, plan.sites.back().module->name);
}

// Weights, input scales and KV scales are those that a reader of the export sees.
TEST_F(Sharded, WeightSourceEqualsThatOfTheExport) {
  for (const std::string kv : {"fp8_e4m3", "nvfp4"}) {
    const auto plan = make_test_plan(source_.tree(), mixed_formats, kv);
    const ShardedCheckpoint ours = open_sharded(write("sharded-" + kv, plan));
    const model::StoredModel exported =
        model::open_checkpoint(export_directly("direct-" + kv, plan));
    for (const quant::SitePlan& site : plan.sites) {
      const auto a = ours.stored.weights->linear(*site.module);
      const auto b = exported.weights->linear(*site.module);
      EXPECT_EQ(a.packed.format, b.packed.format);
      EXPECT_EQ(a.input.format, b.input.format);
      EXPECT_EQ(a.input.scale, b.input.scale);
      for (const formats::PlaneSpec& plane : a.packed.format->planes) {
        const auto x = a.packed.plane(plane.role).bytes();
        const auto y = b.packed.plane(plane.role).bytes();
        EXPECT_TRUE(std::equal(x.begin(), x.end(), y.begin(), y.end())) << site.module->name;
      }
    }
    const model::AttentionSite& site = source_.tree().attentions()[0];
    const auto a = ours.stored.weights->kv_rule(site);
    const auto b = exported.weights->kv_rule(site);
    EXPECT_EQ(a.format, b.format);
    EXPECT_EQ(a.k_scale, b.k_scale);
    EXPECT_EQ(a.v_scale, b.v_scale);
  }
}

TEST_F(Sharded, InspectionEqualsThatOfTheExport) {
  const auto plan = make_test_plan(source_.tree(), mixed_formats, "fp8_e4m3");
  const Inspection ours = inspect_checkpoint(write("sharded", plan));
  const Inspection exported = inspect_checkpoint(export_directly("direct", plan));
  EXPECT_EQ(to_json(ours)["modules"], to_json(exported)["modules"]);
  EXPECT_EQ(ours.kv_format, "fp8_e4m3");
  EXPECT_EQ(ours.n_tensors, exported.n_tensors);
  EXPECT_EQ(ours.bits_per_weight, exported.bits_per_weight);
}

TEST_F(Sharded, FilesByRank) {
  const auto plan = make_test_plan(source_.tree(), mixed_formats);
  const fs::path out = write("sharded", plan);
  EXPECT_TRUE(is_sharded_checkpoint(out));
  EXPECT_FALSE(is_sharded_checkpoint(source_.directory));
  EXPECT_EQ(io::read_json(out / "vernier.json")["format_version"], 1);
  const io::SafetensorsFile experts(out / "experts-pp00-ep00.safetensors");
  for (const io::TensorEntry& entry : experts.header().entries) {
    EXPECT_THAT(entry.name, HasSubstr(".experts."));
  }
  const io::SafetensorsFile dense(out / "dense-pp00-tp00.safetensors");
  for (const io::TensorEntry& entry : dense.header().entries) {
    EXPECT_EQ(entry.name.find(".experts."), std::string::npos);
  }
  EXPECT_EQ(read_file(out / "config.json"), read_file(source_.directory / "config.json"));
  EXPECT_TRUE(fs::exists(out / "generation_config.json"));
  // The configuration in the manifest keeps the source's spelling too.
  EXPECT_THAT(read_file(out / "vernier.json"), HasSubstr("\"__float__\": \"Infinity\""));
  EXPECT_THAT(verify_checkpoint(out), IsEmpty());
}

TEST_F(Sharded, SourceIsKnownByItsHeaders) {
  const auto plan = make_test_plan(source_.tree(), mixed_formats);
  const ShardedCheckpoint checkpoint = open_sharded(write("sharded", plan));
  EXPECT_EQ(checkpoint.source, source_.directory);
  checkpoint.check_source(source_.directory);
  EXPECT_THAT(error_of([&] { checkpoint.check_source(golden("grouped/checkpoint")); }),
              HasSubstr("are not those that"));
}

struct BadManifest {
  std::string title;
  std::function<void(io::Json&)> edit;
  std::string message;
};

TEST_F(Sharded, ManifestsThatAreRejected) {
  const auto plan = make_test_plan(source_.tree(), mixed_formats, "fp8_e4m3");
  const fs::path out = write("sharded", plan);
  const std::string good = read_file(out / "vernier.json");
  const std::string in_proj = "backbone.layers.0.mixer.in_proj";
  const BadManifest cases[] = {
      {"format", [](io::Json& j) { j["format"] = "other"; }, "not a sharded checkpoint"},
      {"version", [](io::Json& j) { j["format_version"] = 3; },
       "format_version: found 3, this program reads 1 and 2"},
      {"ranks", [](io::Json& j) { j["layout"]["ep"] = 0; }, "layout.ep: expected at least 1"},
      {"no key", [](io::Json& j) { j.erase("recipe"); }, "has no key \"recipe\""},
      {"arithmetic", [](io::Json& j) { j["arithmetic"] = "gpu"; },
       "arithmetic: \"gpu\" is not a known value"},
      {"unknown format", [&](io::Json& j) { j["modules"][in_proj]["weight_format"] = "int3"; },
       "modules." + in_proj + ".weight_format: \"int3\" is not a format of this program"},
      {"input rule", [&](io::Json& j) { j["modules"][in_proj]["input_format"] = "bf16"; },
       "has no input rule"},
      {"no module", [&](io::Json& j) { j["modules"].erase(in_proj); },
       "modules: has no entry for " + in_proj},
      {"other format", [&](io::Json& j) { j["modules"][in_proj]["weight_format"] = "nvfp4"; },
       in_proj},
      {"types", [](io::Json& j) { j["recipe"] = 3; }, "recipe: expected a string"},
      {"count",
       [&](io::Json& j) {
         j["tensors"][in_proj + ".weight"]["shape"] = {-1, 2};
       },
       "expected a count"},
      {"dtype", [&](io::Json& j) { j["tensors"][in_proj + ".weight"]["dtype"] = "F7"; },
       "is not an element type of safetensors"},
      {"two slices",
       [&](io::Json& j) {
         auto& slices = j["tensors"][in_proj + ".weight"]["slices"];
         slices.push_back(io::Json(slices[0]));
       },
       "tensor " + in_proj + ".weight: its slices 0 and 1 overlap"},
      {"path",
       [&](io::Json& j) { j["tensors"][in_proj + ".weight"]["slices"][0]["file"] = "../x"; },
       "\"../x\" is not the name of a file in it"},
      {"file",
       [&](io::Json& j) {
         j["tensors"][in_proj + ".weight"]["slices"][0]["file"] = "gone.safetensors";
       },
       "gone.safetensors"},
      {"other file",
       [&](io::Json& j) {
         j["tensors"][in_proj + ".weight"]["slices"][0]["file"] = "experts-pp00-ep00.safetensors";
       },
       "tensor " + in_proj + ".weight: is not there, but vernier.json says so"},
      {"shape", [&](io::Json& j) { j["tensors"][in_proj + ".input_amax"]["dtype"] = "BF16"; },
       "found F32 [], vernier.json says BF16 []"},
      {"tensor gone", [&](io::Json& j) { j["tensors"].erase(in_proj + ".input_amax"); },
       "no tensor " + in_proj + ".input_amax"},
  };
  for (const BadManifest& bad : cases) {
    SCOPED_TRACE(bad.title);
    io::Json json = io::parse_json(good, "vernier.json");
    bad.edit(json);
    write_file(out / "vernier.json", io::dump_json(json));
    EXPECT_THAT(error_of([&] { open_sharded(out); }), HasSubstr(bad.message));
    EXPECT_THAT(verify_checkpoint(out), ::testing::SizeIs(1));
  }
}

// A maximum that was never written is zero in the file.
TEST_F(Sharded, MissingMaximumIsRejected) {
  const auto plan = make_test_plan(source_.tree(), mixed_formats);
  ShardedWriterOptions options;
  options.directory = temp_.make("sharded");
  options.source = source_.directory;
  make_sharded_writer(options, source_.tree(), plan, source_.decls())->sync();
  options.resume = true;
  auto sink = make_sharded_writer(options, source_.tree(), plan, source_.decls());
  for (const std::string& name : source_.checkpoint.names()) {
    const model::Module* owner = source_.tree().owner_of(name);
    if (mixed_formats(*owner).weight == "bf16") {
      sink->copy_tensor(name, source_.checkpoint.tensor(name));
    }
  }
  sink->finish();
  EXPECT_THAT(error_of([&] { open_sharded(options.directory); }),
              HasSubstr("is 0, expected a positive finite number"));
}

}  // namespace
}  // namespace vernier::exporting
