// Our recipes against what Model Optimizer exported with its own of the same meaning: the same
// modules in the same formats, read off the tensors of its checkpoints (tests/golden/modelopt).
#include <gmock/gmock.h>

#include <filesystem>

#include "quant/plan.h"
#include "quant/test_networks.h"

namespace vernier::quant {
namespace {

namespace fs = std::filesystem;

struct PeerRun {
  const char* folder;
  const char* recipe;  // empty: nothing but the KV cache
  const char* kv;
};
constexpr PeerRun kRuns[] = {
    {"fp8", "fp8", ""},
    {"kv_fp8_only", "", "fp8"},
    {"lightning_w4a16_nvfp4_4o6", "nemotron_3.5_lightning_w4a16", ""},
    {"mamba_moe_fp8_aggressive", "mamba_moe_fp8_aggressive", ""},
    {"mamba_moe_fp8_conservative", "mamba_moe_fp8_conservative", ""},
    {"mamba_moe_fp8_conservative-kv_fp8", "mamba_moe_fp8_conservative", "fp8"},
    {"mamba_moe_nvfp4_aggressive", "mamba_moe_nvfp4_aggressive", ""},
    {"mamba_moe_nvfp4_aggressive-kv_fp8", "mamba_moe_nvfp4_aggressive", "fp8"},
    {"mamba_moe_nvfp4_conservative", "mamba_moe_nvfp4_conservative", ""},
    {"nano4b_nvfp4_w4a16", "nemotron_3_nano_4b_nvfp4", ""},
    {"nvfp4", "nvfp4", ""},
    {"nvfp4-kv_fp8_cast", "nvfp4", "fp8_cast"},
    {"nvfp4-kv_nvfp4", "nvfp4", "nvfp4"},
    {"nvfp4_experts_only", "nvfp4_experts_only", ""},
    {"nvfp4_four_over_six", "nvfp4_four_over_six", ""},
    {"nvfp4_w4a4_weight_mse_fp8_sweep", "nvfp4_sweep", ""},
    {"super_nvfp4-max-calib", "nemotron_3_super_nvfp4_max", ""},
    {"super_nvfp4-mse", "nemotron_3_super_nvfp4", ""},
    {"ultra_nvfp4-4o6", "nemotron_3_ultra_nvfp4", ""},
    {"w4a16_nvfp4", "w4a16_nvfp4", ""},
};

// "nvfp4/nvfp4", "fp8_e4m3/-", "bf16": what the tensors of a module say.
std::string exported_formats(const io::Json& tensors, const std::string& module) {
  if (!tensors.contains(module + ".weight_scale")) return "bf16";
  const std::string format = tensors.contains(module + ".weight_scale_2") ? "nvfp4" : "fp8_e4m3";
  return format + "/" + (tensors.contains(module + ".input_scale") ? format : "-");
}

std::string planned_formats(const SitePlan& site) {
  if (!site.is_quantized()) return "bf16";
  return std::string(site.weight_format->name) + "/" +
         std::string(site.input_format ? site.input_format->name : "-");
}

// The recipe of a run; rules for layers that the small network does not have go.
Recipe recipe_of(const PeerRun& run) {
  Recipe recipe;
  if (*run.recipe) recipe = load_recipe(run.recipe);
  std::erase_if(recipe.rules,
                [](const Rule& rule) { return rule.pattern.rfind("*layers.", 0) == 0; });
  if (*run.kv) append_kv_preset(recipe, run.kv);
  return recipe;
}

void check_kv(const QuantPlan& plan, const io::Json& tensors, const io::Json& quantization) {
  const io::Json& algorithm = quantization["kv_cache_quant_algo"];
  const formats::Format* format = plan.kv_format();
  EXPECT_EQ(format ? std::string(format->name == "nvfp4" ? "NVFP4" : "FP8") : "",
            algorithm.is_null() ? "" : algorithm.get<std::string>());
  for (const KvPlan& kv : plan.kv) {
    EXPECT_EQ(kv.format != nullptr && !kv.is_cast, tensors.contains(kv.site->k_proj + ".k_scale"));
    EXPECT_EQ(kv.format != nullptr && !kv.is_cast, tensors.contains(kv.site->v_proj + ".v_scale"));
  }
}

class ModelOptimizer : public testing::TestWithParam<const char*> {};

TEST_P(ModelOptimizer, QuantizesTheSameModulesAlike) {
  const std::string checkpoint = GetParam();
  const auto network =
      open_config(read_config("tests/golden/" + checkpoint + "/checkpoint/config.json"));
  for (const PeerRun& run : kRuns) {
    SCOPED_TRACE(run.folder);
    const std::string folder = "tests/golden/modelopt/" + checkpoint + "/" + run.folder;
    if (!fs::exists(std::string(VERNIER_SOURCE_DIR "/") + folder)) {
      ADD_FAILURE() << folder << " is missing";
      continue;
    }
    const io::Json tensors = read_config(folder + "/tensors.json")["tensors"];
    const QuantPlan plan = make_plan(recipe_of(run), network->tree(), {});
    for (const SitePlan& site : plan.sites) {
      EXPECT_EQ(planned_formats(site), exported_formats(tensors, site.module->name))
          << site.module->name;
    }
    check_kv(plan, tensors, read_config(folder + "/hf_quant_config.json")["quantization"]);
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, ModelOptimizer, testing::Values("latent", "grouped"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace vernier::quant
