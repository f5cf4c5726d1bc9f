// Every file below recipes/ on a network it is meant for.
#include <gmock/gmock.h>

#include "base/file.h"
#include "quant/plan.h"
#include "quant/recipe_source.h"
#include "quant/test_files.h"
#include "quant/test_networks.h"

namespace vernier::quant {
namespace {

std::string formats_of(const QuantPlan& plan, const model::ModuleTree& tree,
                       std::string_view name) {
  const SitePlan& site = plan.site(*tree.find(name));
  if (!site.is_quantized()) return "bf16";
  return std::string(site.weight_format->name) + (site.scale_rule.four_over_six ? " 4/6" : "") +
         "/" + std::string(site.input_format ? site.input_format->name : "-");
}

// The depth of Nemotron 3 Nano 4B, whose recipe names layers: dense MLPs at those, Mamba-2 and
// attention around them.
std::unique_ptr<model::Model> nano_4b_like_network() {
  io::Json layers = io::Json::array();
  for (int layer = 0; layer < 42; ++layer) layers.push_back("linear_attention");
  for (int layer : {1, 3, 5, 8, 10, 18, 25, 33, 41, 20}) layers[static_cast<size_t>(layer)] = "mlp";
  layers[12] = "full_attention";
  return mixed_network_with({{"layers_block_type", layers}});
}

TEST(ShippedRecipes, AreListedWithDescriptions) {
  std::vector<std::string> names;
  for (const RecipeSummary& recipe : list_recipes()) {
    names.push_back(recipe.name);
    EXPECT_FALSE(recipe.description.empty()) << recipe.name;
  }
  EXPECT_THAT(names,
              testing::ElementsAre("fp8", "mamba_moe_fp8_aggressive", "mamba_moe_fp8_conservative",
                                   "mamba_moe_nvfp4_aggressive", "mamba_moe_nvfp4_conservative",
                                   "nemotron_3.5_lightning_w4a16", "nemotron_3_nano_4b_nvfp4",
                                   "nemotron_3_super_nvfp4", "nemotron_3_super_nvfp4_max",
                                   "nemotron_3_ultra_nvfp4", "nvfp4", "nvfp4_experts_only",
                                   "nvfp4_four_over_six", "nvfp4_sweep", "w4a16_nvfp4"));
  EXPECT_THAT(shipped_names("kv"), testing::ElementsAre("fp8", "fp8_cast", "none", "nvfp4"));
}

TEST(ShippedRecipes, ApplyToTheirNetworks) {
  const auto mixed = mixed_network();
  const auto nano_4b = nano_4b_like_network();
  for (const RecipeSummary& summary : list_recipes()) {
    SCOPED_TRACE(summary.name);
    const bool is_nano = summary.name == "nemotron_3_nano_4b_nvfp4";
    for (const char* kv : {"none", "fp8", "fp8_cast", "nvfp4"}) {
      Recipe recipe = load_recipe(summary.name);
      EXPECT_EQ(recipe.name, summary.name);
      append_kv_preset(recipe, kv);
      const QuantPlan plan = make_plan(recipe, (is_nano ? nano_4b : mixed)->tree(), {});
      EXPECT_LT(plan.bits_per_weight(), 16);
    }
  }
}

TEST(ShippedRecipes, TheKvPresetNoneOverrulesTheRecipe) {
  Recipe recipe = load_recipe("nemotron_3_super_nvfp4");
  const auto network = mixed_network();
  EXPECT_NE(make_plan(recipe, network->tree(), {}).kv_format(), nullptr);
  append_kv_preset(recipe, "none");
  EXPECT_EQ(make_plan(recipe, network->tree(), {}).kv_format(), nullptr);
}

TEST(ShippedRecipes, AnswerToTheirOtherNames) {
  EXPECT_EQ(load_recipe("nvfp4_w4a4_weight_mse_fp8_sweep").name, "nvfp4_sweep");
  EXPECT_EQ(load_recipe("NVFP4_W4A4_WEIGHT_MSE_FP8_SWEEP_CFG").name, "nvfp4_sweep");
  EXPECT_EQ(load_recipe("FP8_DEFAULT_CFG").name, "fp8");
  EXPECT_EQ(load_recipe("NVFP4_DEFAULT_CFG").name, "nvfp4");
  EXPECT_EQ(load_recipe("MAMBA_MOE_FP8_AGGRESSIVE_CFG").name, "mamba_moe_fp8_aggressive");
  EXPECT_EQ(load_recipe("configs/ptq/presets/model/nvfp4").name, "nvfp4");
}

TEST(ShippedRecipes, NumericsSayWhatTheirNamesSay) {
  for (const std::string& name : shipped_names("numerics")) {
    const auto node = open_shipped("numerics/" + name);
    ASSERT_TRUE(node) << name;
    const Fields fields = node->fields();
    EXPECT_NE(fields.find("num_bits"), nullptr) << name;
  }
}

TEST(ShippedRecipes, UnitsAndPresetsAreAllReachable) {
  for (const std::string& unit : shipped_names("units")) {
    EXPECT_FALSE(open_shipped("units/" + unit)->items().empty()) << unit;
  }
}

using DocumentedRecipes = RecipeFiles;

TEST_F(DocumentedRecipes, TheGuidesExampleApplies) {
  const std::string guide = read_file(VERNIER_SOURCE_DIR "/docs/howto/recipes.md");
  const std::string fence = "```yaml\n";
  const size_t begin = guide.find(fence);
  ASSERT_NE(begin, guide.npos);
  const size_t end = guide.find("```", begin + fence.size());
  const std::string text = guide.substr(begin + fence.size(), end - begin - fence.size());
  const Recipe recipe = load_recipe(write("guide.yaml", text));
  const auto network = mixed_network();
  const QuantPlan plan = make_plan(recipe, network->tree(), {});
  const model::ModuleTree& tree = network->tree();
  EXPECT_EQ(formats_of(plan, tree, "backbone.layers.1.mixer.experts.0.up_proj"), "nvfp4/nvfp4");
  EXPECT_EQ(formats_of(plan, tree, "backbone.layers.5.mixer.in_proj"), "fp8_e4m3/fp8_e4m3");
  EXPECT_EQ(formats_of(plan, tree, "backbone.layers.0.mixer.in_proj"), "bf16");
}

TEST(ShippedRecipes, SsmCacheDtypeIsTheModelRecipesMatter) {
  for (const RecipeSummary& summary : list_recipes()) {
    const bool is_model_recipe = summary.name.rfind("nemotron_", 0) == 0;
    EXPECT_EQ(load_recipe(summary.name).mamba_ssm_cache_dtype, is_model_recipe ? "float16" : "")
        << summary.name;
  }
}

TEST(ShippedRecipes, NemotronModelRecipes) {
  struct Expected {
    const char* recipe;
    const char* experts;
    const char* shared;
    const char* head;
    AlgorithmMethod method;
    bool sweep;
  };
  constexpr const char* kFp8 = "fp8_e4m3/fp8_e4m3";
  const auto network = mixed_network();
  const model::ModuleTree& tree = network->tree();
  for (const Expected& expected : {
           Expected{"nemotron_3_super_nvfp4", "nvfp4/nvfp4", kFp8, "bf16", AlgorithmMethod::kMse,
                    true},
           Expected{"nemotron_3_super_nvfp4_max", "nvfp4/nvfp4", kFp8, "bf16",
                    AlgorithmMethod::kMax, false},
           Expected{"nemotron_3_ultra_nvfp4", "nvfp4 4/6/nvfp4", kFp8, "bf16",
                    AlgorithmMethod::kMse, false},
           Expected{"nemotron_3.5_lightning_w4a16", "nvfp4 4/6/-", "nvfp4 4/6/-", "nvfp4 4/6/-",
                    AlgorithmMethod::kMse, false},
       }) {
    SCOPED_TRACE(expected.recipe);
    const Recipe recipe = load_recipe(expected.recipe);
    const QuantPlan plan = make_plan(recipe, tree, {});
    EXPECT_EQ(recipe.algorithm.method, expected.method);
    EXPECT_EQ(recipe.algorithm.fp8_scale_sweep, expected.sweep);
    EXPECT_EQ(formats_of(plan, tree, "backbone.layers.1.mixer.experts.0.up_proj"),
              expected.experts);
    EXPECT_EQ(formats_of(plan, tree, "backbone.layers.1.mixer.shared_experts.up_proj"),
              expected.shared);
    EXPECT_EQ(formats_of(plan, tree, "lm_head"), expected.head);
    EXPECT_EQ(formats_of(plan, tree, "backbone.layers.0.mixer.in_proj"), kFp8);
    EXPECT_EQ(formats_of(plan, tree, "backbone.layers.0.mixer.out_proj"), kFp8);
    for (const char* name : {"backbone.embeddings", "backbone.layers.1.mixer.fc1_latent_proj",
                             "backbone.layers.2.mixer.q_proj", "backbone.layers.2.mixer.o_proj",
                             "backbone.layers.4.mixer.up_proj"}) {
      EXPECT_EQ(formats_of(plan, tree, name), "bf16") << name;
    }
    EXPECT_EQ(plan.kv_format(), formats::find_format("fp8_e4m3"));
    EXPECT_FALSE(plan.kv_is_cast());
  }
}

TEST(ShippedRecipes, Nano4BKeepsNineDownProjectionsInFp8) {
  const auto network = nano_4b_like_network();
  const model::ModuleTree& tree = network->tree();
  const QuantPlan plan = make_plan(load_recipe("nemotron_3_nano_4b_nvfp4"), tree, {});
  for (int layer : {1, 3, 5, 8, 10, 18, 25, 33, 41}) {
    const std::string mixer = "backbone.layers." + std::to_string(layer) + ".mixer.";
    EXPECT_EQ(formats_of(plan, tree, mixer + "down_proj"), "fp8_e4m3/fp8_e4m3");
    EXPECT_EQ(formats_of(plan, tree, mixer + "up_proj"), "nvfp4/nvfp4");
  }
  EXPECT_EQ(formats_of(plan, tree, "backbone.layers.20.mixer.down_proj"), "nvfp4/nvfp4");
  EXPECT_EQ(formats_of(plan, tree, "backbone.layers.12.mixer.q_proj"), "nvfp4/nvfp4");
  EXPECT_EQ(formats_of(plan, tree, "lm_head"), "fp8_e4m3/-");
  EXPECT_EQ(formats_of(plan, tree, "backbone.embeddings"), "nvfp4/-");
  EXPECT_EQ(plan.kv_format(), nullptr);
}

}  // namespace
}  // namespace vernier::quant
