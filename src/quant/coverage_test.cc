#include "quant/coverage.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "quant/test_networks.h"

namespace vernier::quant {
namespace {

const CoverageRow* find_row(const std::vector<CoverageRow>& rows, std::string_view modules) {
  const auto found = std::find_if(rows.begin(), rows.end(),
                                  [&](const CoverageRow& row) { return row.modules == modules; });
  return found == rows.end() ? nullptr : &*found;
}

TEST(Coverage, FoldsLayersAndExperts) {
  const auto network = tiny_network();
  Recipe recipe = load_recipe("mamba_moe_nvfp4_conservative");
  append_kv_preset(recipe, "fp8");
  const QuantPlan plan = make_plan(recipe, network->tree(), {});
  const std::vector<CoverageRow> rows = coverage(plan, network->tree());

  const CoverageRow* experts =
      find_row(rows, "backbone.layers.{1,3,6,8,10,13}.mixer.experts.*.up_proj");
  ASSERT_NE(experts, nullptr);
  EXPECT_EQ(experts->count, 6 * 32);
  EXPECT_EQ(experts->weights, 6 * 32 * 128 * 128);
  EXPECT_EQ(experts->weight, "nvfp4");
  EXPECT_EQ(experts->input, "nvfp4");
  EXPECT_EQ(experts->rule,
            "'*weight_quantizer' in recipes/units/w4a4_nvfp4_nvfp4.yaml; "
            "input '*input_quantizer' in recipes/units/w4a4_nvfp4_nvfp4.yaml");

  const CoverageRow* in_proj = find_row(rows, "backbone.layers.{0,2,4,7,9,11}.mixer.in_proj");
  ASSERT_NE(in_proj, nullptr);
  EXPECT_EQ(in_proj->weight, "bf16");
  EXPECT_EQ(in_proj->input, "-");
  EXPECT_EQ(in_proj->rule, "'*mixer.in_proj*' in recipes/units/mamba_projections_disabled.yaml");

  const CoverageRow* kv = find_row(rows, "backbone.layers.{5,12}.mixer.[kv]_bmm");
  ASSERT_NE(kv, nullptr);
  EXPECT_EQ(kv->count, 2);
  EXPECT_EQ(kv->input, "fp8_e4m3");
}

TEST(Coverage, ListsEveryModuleOnce) {
  const auto network = mixed_network();
  const QuantPlan plan = make_plan(load_recipe("nemotron_3_super_nvfp4"), network->tree(), {});
  const std::vector<CoverageRow> rows = coverage(plan, network->tree());
  int64_t n_modules = static_cast<int64_t>(network->tree().attentions().size());
  int64_t n_weights = 0;
  for (const model::Module& module : network->tree().modules()) {
    ++n_modules;
    for (const model::TensorSpec& tensor : module.tensors) n_weights += n_elems(tensor.shape);
  }
  int64_t n_counted = 0;
  int64_t n_weights_counted = 0;
  for (const CoverageRow& row : rows) {
    n_counted += row.count;
    n_weights_counted += row.weights;
  }
  EXPECT_EQ(n_counted, n_modules);
  EXPECT_EQ(n_weights_counted, n_weights);
  for (const char* name : {"backbone.layers.{0,5}.mixer.conv1d", "backbone.layers.{1,3}.mixer.gate",
                           "backbone.layers.{0-5}.norm", "backbone.norm_f"}) {
    const CoverageRow* row = find_row(rows, name);
    ASSERT_NE(row, nullptr) << name;
    EXPECT_EQ(row->weight, "not quantizable");
  }
  ASSERT_NE(find_row(rows, "backbone.embeddings"), nullptr);
  EXPECT_EQ(find_row(rows, "backbone.embeddings")->weight, "bf16");
  EXPECT_EQ(find_row(rows, "backbone.layers.{1,3}.mixer.experts.*.up_proj")->weight, "nvfp4 sweep");
}

// Experts may differ in their scale rule; the layer's number may also be an expert's.
TEST(Coverage, SplitsExpertsThatDiffer) {
  const auto network = mixed_network();
  Recipe recipe = load_recipe("w4a16_nvfp4");
  Rule rule{"*layers.3.mixer.experts.[1367].up_proj.weight_quantizer", "", true,
            QuantizerConfig{.format = formats::find_format("nvfp4"), .is_static = true}, "test"};
  recipe.rules.push_back(rule);
  const QuantPlan plan = make_plan(recipe, network->tree(), {});
  const std::vector<CoverageRow> rows = coverage(plan, network->tree());
  const CoverageRow* some = find_row(rows, "backbone.layers.3.mixer.experts.{1,3,6,7}.up_proj");
  ASSERT_NE(some, nullptr);
  EXPECT_EQ(some->count, 4);
  EXPECT_EQ(some->weight, "nvfp4 static");
  EXPECT_NE(find_row(rows, "backbone.layers.3.mixer.experts.{0,2,4,5}.up_proj"), nullptr);
  EXPECT_NE(find_row(rows, "backbone.layers.1.mixer.experts.*.up_proj"), nullptr);
  EXPECT_NE(find_row(rows, "backbone.layers.{1,3}.mixer.experts.*.down_proj"), nullptr);
}

TEST(Coverage, AllLayersOfADeepNetworkAreAStar) {
  io::Json layers = io::Json::array();
  for (int layer = 0; layer < 40; ++layer) layers.push_back(layer % 2 ? "moe" : "linear_attention");
  layers.push_back("full_attention");
  const auto network = mixed_network_with({{"layers_block_type", layers}});
  Recipe recipe = load_recipe("fp8");
  recipe.rules.push_back({"*layers.6.mixer.out_proj*", "", false, std::nullopt, "test"});
  const std::vector<CoverageRow> rows =
      coverage(make_plan(recipe, network->tree(), {}), network->tree());
  const CoverageRow* in_proj = find_row(rows, "backbone.layers.*.mixer.in_proj");
  ASSERT_NE(in_proj, nullptr);
  EXPECT_EQ(in_proj->count, 20);
  const CoverageRow* experts = find_row(rows, "backbone.layers.*.mixer.experts.*.up_proj");
  ASSERT_NE(experts, nullptr);
  EXPECT_EQ(experts->count, 20 * 8);
  EXPECT_NE(find_row(rows, "backbone.layers.6.mixer.out_proj"), nullptr);
  EXPECT_NE(find_row(rows,
                     "backbone.layers.{0,2,4,8,10,12,14,16,18,20,22,24,26,28,30,32,34,36,38}"
                     ".mixer.out_proj"),
            nullptr);
}

TEST(Coverage, SaysWhyAModuleWasLeft) {
  const auto network = mixed_network_with({{"moe_intermediate_size", 40}});
  const QuantPlan plan =
      make_plan(load_recipe("nvfp4"), network->tree(), {.unquantizable_bf16 = true});
  const std::vector<CoverageRow> rows = coverage(plan, network->tree());
  const CoverageRow* row = find_row(rows, "backbone.layers.1.mixer.experts.*.down_proj");
  ASSERT_NE(row, nullptr);
  EXPECT_EQ(row->weight, "bf16");
  EXPECT_EQ(row->rule,
            "k 40 of backbone.layers.1.mixer.experts.0.down_proj is not a multiple of nvfp4's 16");
}

TEST(Coverage, RuleRowsShowActionsAndCounts) {
  const auto network = mixed_network();
  Recipe recipe = load_recipe("nvfp4_four_over_six");
  append_kv_preset(recipe, "fp8_cast");
  const std::vector<RuleRow> rows = rule_rows(make_plan(recipe, network->tree(), {}));
  std::vector<std::string> actions;
  for (const RuleRow& row : rows) actions.push_back(row.pattern + " " + row.action);
  EXPECT_THAT(actions,
              testing::ElementsAre("* off", "*weight_quantizer nvfp4 4/6", "*input_quantizer nvfp4",
                                   "*lm_head* off", "*mixer.conv1d* off", "mtp.* off",
                                   "* of nn.Embedding off", "*[kv]_bmm_quantizer fp8_e4m3 cast"));
  EXPECT_EQ(rows[3].matched, 3);
  EXPECT_EQ(rows[4].matched, 6);
  EXPECT_EQ(rows[5].matched, 0);
  EXPECT_EQ(rows[6].matched, 3);
  EXPECT_EQ(rows[7].matched, 2);
  EXPECT_EQ(rows[3].origin, "recipes/units/default_disabled_quantizers.yaml");
}

}  // namespace
}  // namespace vernier::quant
