#include "quant/plan.h"

#include <gmock/gmock.h>

#include "quant/quantizers.h"
#include "quant/test_files.h"
#include "quant/test_networks.h"

namespace vernier::quant {
namespace {

using formats::ScaleMethod;
using testing::AllOf;
using testing::HasSubstr;

std::string formats_of(const SitePlan& site) {
  if (!site.is_quantized()) return "bf16";
  return std::string(site.weight_format->name) + "/" +
         std::string(site.input_format ? site.input_format->name : "-");
}

class MixedPlan : public RecipeFiles {
 protected:
  QuantPlan plan(const Recipe& recipe, const PlanOptions& options = {}) const {
    return make_plan(recipe, model_->tree(), options);
  }
  QuantPlan plan_of_rules(std::string_view rules, std::string_view algorithm = "max",
                          const PlanOptions& options = {}) const {
    return plan(load_recipe(write_recipe(rules, algorithm)), options);
  }
  Caught failure(std::string_view rules, std::string_view algorithm = "max") const {
    return caught([&] { plan_of_rules(rules, algorithm); });
  }
  const SitePlan& site(const QuantPlan& plan, std::string_view name) const {
    return plan.site(*model_->tree().find(name));
  }

  const std::unique_ptr<model::Model> model_ = mixed_network();
};

// One module of every kind of the mixed network.
struct Row {
  const char* module;
  const char* fp8_aggressive;
  const char* fp8_conservative;
  const char* nvfp4_aggressive;
  const char* nvfp4_conservative;
};
constexpr const char* kF = "fp8_e4m3/fp8_e4m3";
constexpr const char* kN = "nvfp4/nvfp4";
constexpr const char* kB = "bf16";
constexpr Row kMambaMoeTable[] = {
    {"backbone.layers.1.mixer.experts.7.up_proj", kF, kF, kN, kN},
    {"backbone.layers.3.mixer.experts.0.down_proj", kF, kF, kN, kN},
    {"backbone.layers.1.mixer.shared_experts.up_proj", kF, kF, kN, kN},
    {"backbone.layers.1.mixer.shared_experts.down_proj", kF, kF, kN, kN},
    {"backbone.layers.4.mixer.up_proj", kF, kF, kN, kN},
    {"backbone.layers.4.mixer.down_proj", kF, kF, kN, kN},
    {"backbone.layers.0.mixer.in_proj", kF, kB, kN, kB},
    {"backbone.layers.5.mixer.out_proj", kF, kB, kN, kB},
    {"backbone.layers.1.mixer.fc1_latent_proj", kB, kB, kB, kB},
    {"backbone.layers.1.mixer.fc2_latent_proj", kB, kB, kB, kB},
    {"backbone.layers.2.mixer.q_proj", kB, kB, kB, kB},
    {"backbone.layers.2.mixer.k_proj", kB, kB, kB, kB},
    {"backbone.layers.2.mixer.v_proj", kB, kB, kB, kB},
    {"backbone.layers.2.mixer.o_proj", kB, kB, kB, kB},
    {"backbone.embeddings", kB, kB, kB, kB},
    {"lm_head", kB, kB, kB, kB},
};

TEST_F(MixedPlan, MambaMoeConfigsDecideAsModelOptimizers) {
  const auto check = [&](const char* name, const char* Row::*column) {
    const QuantPlan plan = this->plan(load_recipe(name));
    for (const Row& row : kMambaMoeTable) {
      EXPECT_EQ(formats_of(site(plan, row.module)), row.*column) << name << " " << row.module;
    }
    EXPECT_EQ(plan.kv_format(), nullptr);
  };
  check("mamba_moe_fp8_aggressive", &Row::fp8_aggressive);
  check("mamba_moe_fp8_conservative", &Row::fp8_conservative);
  check("mamba_moe_nvfp4_aggressive", &Row::nvfp4_aggressive);
  check("MAMBA_MOE_NVFP4_CONSERVATIVE_CFG", &Row::nvfp4_conservative);
}

TEST_F(MixedPlan, SitesAreTheLinearsAndEmbeddingsInNetworkOrder) {
  const QuantPlan plan = this->plan(load_recipe("fp8"));
  size_t at = 0;
  for (const model::Module& module : model_->tree().modules()) {
    if (module.kind != model::ModuleKind::kLinear && module.kind != model::ModuleKind::kEmbedding) {
      continue;
    }
    ASSERT_LT(at, plan.sites.size());
    EXPECT_EQ(plan.sites[at++].module, &module);
    EXPECT_EQ(&plan.site(module), &plan.sites[at - 1]);
  }
  EXPECT_EQ(at, plan.sites.size());
}

TEST_F(MixedPlan, TheLastMatchWins) {
  const QuantPlan plan = plan_of_rules(
      "  - {quantizer_name: '*.mixer.in_proj.*t_quantizer', cfg: fp8_e4m3}\n"
      "  - {quantizer_name: '*layers.0.*[tn]_proj.weight_quantizer', cfg: nvfp4}\n"
      "  - {quantizer_name: '*layers.0.*[tn]_proj.input_quantizer', cfg: nvfp4}\n"
      "  - {quantizer_name: '*out_proj*', enable: false}\n"
      "  - {quantizer_name: '*output_quantizer', enable: false}\n");
  EXPECT_EQ(formats_of(site(plan, "backbone.layers.0.mixer.in_proj")), "nvfp4/nvfp4");
  EXPECT_EQ(formats_of(site(plan, "backbone.layers.0.mixer.out_proj")), "bf16");
  EXPECT_EQ(formats_of(site(plan, "backbone.layers.5.mixer.in_proj")), "fp8_e4m3/fp8_e4m3");
  EXPECT_EQ(formats_of(site(plan, "backbone.layers.5.mixer.out_proj")), "bf16");
  EXPECT_EQ(site(plan, "lm_head").weight_rule, "no rule");
  EXPECT_EQ(site(plan, "backbone.layers.5.mixer.in_proj").weight_rule,
            "'*.mixer.in_proj.*t_quantizer' in " + (folder_ / "recipe.yaml").string());
}

// An entry with cfg replaces all attributes; one with only enable keeps them.
TEST_F(MixedPlan, TogglesKeepAttributes) {
  const QuantPlan plan = plan_of_rules(
      "  - {quantizer_name: '*in_proj.weight_quantizer', cfg: nvfp4_four_over_six}\n"
      "  - {quantizer_name: '*', enable: false}\n"
      "  - {quantizer_name: '*layers.0.mixer.in_proj.weight_quantizer', enable: true}\n");
  EXPECT_TRUE(site(plan, "backbone.layers.0.mixer.in_proj").scale_rule.four_over_six);
  EXPECT_FALSE(site(plan, "backbone.layers.5.mixer.in_proj").is_quantized());
  const QuantPlan replaced = plan_of_rules(
      "  - {quantizer_name: '*in_proj.weight_quantizer', cfg: nvfp4_four_over_six}\n"
      "  - {quantizer_name: '*in_proj.weight_quantizer', cfg: nvfp4, enable: false}\n"
      "  - {quantizer_name: '*in_proj.weight_quantizer', enable: true}\n");
  EXPECT_FALSE(site(replaced, "backbone.layers.0.mixer.in_proj").scale_rule.four_over_six);
  EXPECT_FALSE(site(replaced, "backbone.layers.0.mixer.in_proj").scale_rule.is_static);
}

TEST_F(MixedPlan, RulesCountTheirMatchesAndDecisions) {
  const QuantPlan plan = this->plan(load_recipe("mamba_moe_fp8_conservative"));
  const auto n_quantizers = static_cast<int64_t>(quantizers_of(model_->tree()).size());
  const auto n_modules = static_cast<int64_t>(plan.sites.size()) + 2;  // two convolutions
  EXPECT_EQ(plan.rules[0].n_matched, n_quantizers);
  // The outputs of all modules but those that a later rule disables, and q, k, v of one attention.
  EXPECT_EQ(plan.rules[1].n_matched, n_modules);
  EXPECT_EQ(plan.rules[3].rule.pattern, "*lm_head*");
  EXPECT_EQ(plan.rules[3].n_matched, 3);
  EXPECT_EQ(plan.rules[3].n_decided, 3);
  EXPECT_EQ(plan.rules[5].rule.pattern, "mtp.*");
  EXPECT_EQ(plan.rules[5].n_matched, 0);
  int64_t n_decided = 0;
  for (const RuleUse& use : plan.rules) n_decided += use.n_decided;
  EXPECT_EQ(n_decided, n_quantizers);
}

TEST_F(MixedPlan, WeightOnlyDropsInputs) {
  const QuantPlan plan = this->plan(load_recipe("nvfp4"), {.weight_only = true});
  for (const SitePlan& site : plan.sites) EXPECT_EQ(site.input_format, nullptr);
  EXPECT_TRUE(site(plan, "backbone.layers.0.mixer.in_proj").is_quantized());
  EXPECT_FALSE(plan.needs_calibration());
}

TEST_F(MixedPlan, KnowsWhetherItNeedsCalibration) {
  EXPECT_TRUE(plan(load_recipe("nvfp4")).needs_calibration());
  Recipe weights = load_recipe("w4a16_nvfp4");
  EXPECT_FALSE(plan(weights).needs_calibration());
  append_kv_preset(weights, "fp8_cast");
  const QuantPlan cast = plan(weights);
  EXPECT_FALSE(cast.needs_calibration());
  EXPECT_TRUE(cast.kv_is_cast());
  append_kv_preset(weights, "nvfp4");
  const QuantPlan kv = plan(weights);
  EXPECT_TRUE(kv.needs_calibration());
  EXPECT_FALSE(kv.kv_is_cast());
  EXPECT_EQ(kv.kv_format(), formats::find_format("nvfp4"));
  EXPECT_EQ(kv.kv.size(), 1u);
  EXPECT_EQ(kv.kv[0].rule, "'*[kv]_bmm_quantizer' in recipes/kv/nvfp4.yaml");
}

TEST_F(MixedPlan, ConstantAmaxNeedsNoCalibration) {
  const QuantPlan plan = plan_of_rules(
      "  - {quantizer_name: '*in_proj.weight_quantizer', cfg: fp8_e4m3}\n"
      "  - {quantizer_name: '*in_proj.input_quantizer', cfg: {num_bits: e4m3, constant_amax: "
      "448}}\n");
  EXPECT_EQ(site(plan, "backbone.layers.0.mixer.in_proj").constant_input_amax, 448.0f);
  EXPECT_FALSE(plan.needs_calibration());
}

TEST_F(MixedPlan, MaxGivesMaximumScales) {
  const QuantPlan plan = plan_of_rules(
      "  - {quantizer_name: '*layers.0.mixer.in_proj.weight_quantizer', cfg: nvfp4}\n"
      "  - {quantizer_name: '*layers.5.mixer.in_proj.weight_quantizer', cfg: nvfp4_static}\n");
  EXPECT_EQ(site(plan, "backbone.layers.0.mixer.in_proj").scale_rule, formats::ScaleRule{});
  EXPECT_EQ(site(plan, "backbone.layers.5.mixer.in_proj").scale_rule,
            (formats::ScaleRule{.is_static = true}));
}

// The sweep is for static NVFP4 weights; FP8 and dynamic ones keep their maximum.
TEST_F(MixedPlan, SweepTouchesOnlyStaticBlockScales) {
  const QuantPlan plan = plan_of_rules(
      "  - {quantizer_name: '*layers.0.mixer.in_proj.weight_quantizer', cfg: nvfp4_static}\n"
      "  - {quantizer_name: '*layers.5.mixer.in_proj.weight_quantizer', cfg: nvfp4}\n"
      "  - {quantizer_name: 'lm_head.weight_quantizer', cfg: fp8_e4m3}\n",
      "{method: mse, fp8_scale_sweep: true}");
  EXPECT_EQ(site(plan, "backbone.layers.0.mixer.in_proj").scale_rule,
            (formats::ScaleRule{.method = ScaleMethod::kFp8Sweep, .is_static = true}));
  EXPECT_EQ(site(plan, "backbone.layers.5.mixer.in_proj").scale_rule, formats::ScaleRule{});
  EXPECT_EQ(site(plan, "lm_head").scale_rule, formats::ScaleRule{});
}

// A rule's own algorithm takes the place of the recipe's for the weights that it decides.
TEST_F(MixedPlan, ARuleMayBringItsAlgorithm) {
  const QuantPlan plan = plan_of_rules(
      "  - {quantizer_name: '*layers.0.mixer.in_proj.weight_quantizer', cfg: nvfp4_static,\n"
      "     algorithm: {method: mse, fp8_scale_sweep: true}}\n"
      "  - {quantizer_name: '*layers.5.mixer.in_proj.weight_quantizer', "
      "cfg: nvfp4_four_over_six,\n     algorithm: {method: mse, start_multiplier: 1.0, "
      "stop_multiplier: 1.5, step_size: 0.5}}\n"
      "  - {quantizer_name: 'lm_head.weight_quantizer', cfg: nvfp4_static}\n",
      "max");
  EXPECT_EQ(site(plan, "backbone.layers.0.mixer.in_proj").scale_rule,
            (formats::ScaleRule{.method = ScaleMethod::kFp8Sweep, .is_static = true}));
  EXPECT_EQ(site(plan, "backbone.layers.5.mixer.in_proj").scale_rule,
            (formats::ScaleRule{.method = ScaleMethod::kMultipliers,
                                .is_static = true,
                                .four_over_six = true,
                                .start = 1.0f,
                                .stop = 1.5f,
                                .step = 0.5f}));
  EXPECT_EQ(site(plan, "lm_head").scale_rule, (formats::ScaleRule{.is_static = true}));
}

TEST_F(MixedPlan, MultipliersTouchFp8Too) {
  const QuantPlan plan = this->plan(load_recipe("nemotron_3_ultra_nvfp4"));
  const formats::ScaleRule fp8{
      .method = ScaleMethod::kMultipliers, .start = 1.0f, .stop = 1.5f, .step = 0.5f};
  formats::ScaleRule four_over_six = fp8;
  four_over_six.is_static = true;
  four_over_six.four_over_six = true;
  EXPECT_EQ(site(plan, "backbone.layers.1.mixer.experts.2.up_proj").scale_rule, four_over_six);
  EXPECT_EQ(site(plan, "backbone.layers.0.mixer.in_proj").scale_rule, fp8);
  EXPECT_EQ(site(plan, "lm_head").scale_rule, formats::ScaleRule{});
}

TEST_F(MixedPlan, EmbeddingsTakeAWeightFormat) {
  const QuantPlan plan =
      plan_of_rules("  - {quantizer_name: '*embeddings*weight_quantizer', cfg: nvfp4}\n");
  EXPECT_EQ(formats_of(site(plan, "backbone.embeddings")), "nvfp4/-");
  EXPECT_DOUBLE_EQ(plan.bits_per_weight(), 16);  // embeddings do not count
}

TEST_F(MixedPlan, RefusesWhatCannotBe) {
  struct Case {
    const char* rules;
    const char* algorithm;
    ErrorKind kind;
    const char* message;
  };
  constexpr auto kInvalid = ErrorKind::kInvalidArgument;
  constexpr auto kUnsupported = ErrorKind::kUnsupported;
  const Case cases[] = {
      {"  - {quantizer_name: '*in_prj*', cfg: nvfp4}\n", "max", kInvalid,
       "the rule '*in_prj*' in "},
      {"  - {quantizer_name: '*in_prj*', cfg: nvfp4}\n", "max", kInvalid,
       "they are named like backbone.embeddings.weight_quantizer"},
      {"  - {quantizer_name: 'lm_head.weight_quantizer', enable: true}\n", "max", kInvalid,
       "switches it on, but no rule gives it a format"},
      {"  - {quantizer_name: '*in_proj*', cfg: nvfp4}\n", "max", kInvalid,
       "backbone.layers.0.mixer.in_proj.output_quantizer: the rule '*in_proj*' in "},
      {"  - {quantizer_name: '*in_proj*', cfg: nvfp4}\n", "max", kInvalid,
       "enables it, but outputs are not quantized; narrow the pattern"},
      {"  - {quantizer_name: '*weight_quantizer', cfg: fp8_e4m3}\n", "max", kInvalid,
       "backbone.layers.0.mixer.conv1d.weight_quantizer: the rule '*weight_quantizer' in "},
      {"  - {quantizer_name: '*conv1d.weight_quantizer', cfg: fp8_e4m3}\n", "max", kInvalid,
       "convolutions are not quantized"},
      {"  - {quantizer_name: '*embeddings.input_quantizer', cfg: fp8_e4m3}\n", "max", kInvalid,
       "the input of an embedding is token ids"},
      {"  - {quantizer_name: '*[qkv]_bmm_quantizer', cfg: fp8_e4m3}\n", "max", kInvalid,
       "queries are not quantized"},
      {"  - {quantizer_name: '*k_bmm_quantizer', cfg: fp8_e4m3}\n", "max", kInvalid,
       "backbone.layers.2.mixer: keys would be in fp8_e4m3 (by '*k_bmm_quantizer' in "},
      {"  - {quantizer_name: '*k_bmm_quantizer', cfg: fp8_e4m3}\n", "max", kInvalid,
       "and values in none (by no rule); they share one format"},
      {"  - {quantizer_name: '*[kv]_bmm_quantizer', cfg: {num_bits: e4m3, constant_amax: 3}}\n",
       "max", kUnsupported, "use use_constant_amax"},
      {"  - {quantizer_name: '*[kv]_bmm_quantizer', cfg: nvfp4_four_over_six}\n", "max",
       kUnsupported, "four_over_six is for weights"},
      {"  - {quantizer_name: 'lm_head.weight_quantizer', cfg: {num_bits: e4m3, constant_amax: "
       "3}}\n",
       "max", kUnsupported, "a constant amax is for inputs and the KV cache"},
      {"  - {quantizer_name: 'lm_head.[wi]*_quantizer', cfg: nvfp4_static}\n", "max", kUnsupported,
       "lm_head.input_quantizer: block scales of inputs are dynamic"},
      {"  - {quantizer_name: 'lm_head.[wi]*_quantizer', cfg: {num_bits: e4m3, use_constant_amax: "
       "true}}\n",
       "max", kUnsupported, "a constant amax is for inputs"},
      {"  - {quantizer_name: 'lm_head.weight_quantizer', cfg: fp8_e4m3}\n"
       "  - {quantizer_name: 'lm_head.input_quantizer', cfg: {num_bits: e4m3, use_constant_amax: "
       "true}}\n",
       "max", kUnsupported, "use_constant_amax is for the KV cache"},
      {"  - {quantizer_name: 'lm_head.weight_quantizer', cfg: nvfp4}\n"
       "  - {quantizer_name: 'lm_head.input_quantizer', cfg: fp8_e4m3}\n",
       "max", kUnsupported, "lm_head: its weight would be in nvfp4 (by "},
      {"  - {quantizer_name: 'lm_head.input_quantizer', cfg: fp8_e4m3}\n", "max", kUnsupported,
       "lm_head: its weight would be in bf16 (by no rule)"},
      {"  - {quantizer_name: '*[qk]_proj.weight_quantizer', cfg: fp8_e4m3}\n", "max", kInvalid,
       "serving kernels fuse them"},
      {"  - {quantizer_name: '*experts.[0-6].*_proj.weight_quantizer', cfg: nvfp4}\n", "max",
       kInvalid, "backbone.layers.1.mixer.experts.7.up_proj is bf16 with unquantized inputs"},
      {"  - {quantizer_name: '*experts.*.up_proj.weight_quantizer', cfg: nvfp4}\n", "max", kInvalid,
       "serving kernels fuse them, so they must be quantized alike"},
      {"  - {quantizer_name: '*[qk]_proj.weight_quantizer', cfg: nvfp4_static}\n"
       "  - {quantizer_name: '*v_proj.weight_quantizer', cfg: nvfp4_four_over_six}\n",
       "max", kInvalid, "v_proj is nvfp4 with unquantized inputs, four over six"},
      {"  - {quantizer_name: 'lm_head.weight_quantizer', cfg: nvfp4}\n", "mse", kUnsupported,
       "block scales of type dynamic are not searched; use nvfp4_static"},
      {"  - {quantizer_name: 'lm_head.weight_quantizer', cfg: nvfp4_four_over_six}\n",
       "{method: mse, fp8_scale_sweep: true}", kUnsupported, "fp8_scale_sweep must be false"},
      {"  - {quantizer_name: 'lm_head.weight_quantizer', cfg: nvfp4}\n",
       "{method: mse, fp8_scale_sweep: true}", kInvalid,
       "the recipe recipe asks for an FP8 scale sweep, but quantizes no weight to nvfp4_static"},
  };
  for (const Case& item : cases) {
    const Caught error = failure(item.rules, item.algorithm);
    EXPECT_EQ(error.kind, item.kind) << error.message;
    EXPECT_THAT(error.message, HasSubstr(item.message));
  }
}

TEST(Plan, KvFormatsOfTwoLayersMustAgree) {
  const auto network = tiny_network();
  Recipe recipe = load_recipe("fp8");
  append_kv_preset(recipe, "fp8");
  Rule rule = recipe.rules.back();
  rule.pattern = "*layers.12.mixer.[kv]_bmm_quantizer";
  rule.config->format = formats::find_format("nvfp4");
  recipe.rules.push_back(rule);
  EXPECT_THAT(caught([&] { make_plan(recipe, network->tree(), {}); }).message,
              AllOf(HasSubstr("the KV cache would be in fp8_e4m3 at backbone.layers.5.mixer"),
                    HasSubstr("but in nvfp4 at backbone.layers.12.mixer")));
}

// An expert width of 40 leaves every down projection with a k that NVFP4 blocks do not divide.
TEST(Plan, NamesModulesWhoseWidthDoesNotFit) {
  const auto network = mixed_network_with({{"moe_intermediate_size", 40}});
  const Recipe recipe = load_recipe("mamba_moe_nvfp4_conservative");
  const Caught error = caught([&] { make_plan(recipe, network->tree(), {}); });
  EXPECT_EQ(error.kind, ErrorKind::kInvalidArgument);
  EXPECT_THAT(
      error.message,
      AllOf(HasSubstr("the input width of 16 modules does not fit the recipe's format: "
                      "backbone.layers.1.mixer.experts.0.down_proj (k 40, nvfp4 needs a "
                      "multiple of 16), "),
            HasSubstr("experts.4.down_proj"), HasSubstr(" and 11 more; "),
            testing::Not(HasSubstr("experts.5.down_proj")), HasSubstr("--unquantizable bf16")));
}

// The kernel that runs a layer's experts needs one format for all, so their up projections stay
// too.
TEST(Plan, LeavesWholeUnitsUnquantizedOnRequest) {
  const auto network = mixed_network_with({{"moe_intermediate_size", 40}});
  const QuantPlan plan = make_plan(load_recipe("mamba_moe_nvfp4_conservative"), network->tree(),
                                   {.unquantizable_bf16 = true});
  EXPECT_EQ(plan.left_unquantized.size(), 32u);  // 2 layers, 8 experts, up and down
  for (const model::Module* module : plan.left_unquantized) {
    EXPECT_GE(module->expert, 0);
    EXPECT_FALSE(plan.site(*module).is_quantized());
    EXPECT_EQ(plan.site(*module).input_format, nullptr);
    EXPECT_THAT(plan.site(*module).weight_rule, HasSubstr("is not a multiple of nvfp4's 16"));
  }
  const model::Module* shared =
      network->tree().find("backbone.layers.1.mixer.shared_experts.up_proj");
  EXPECT_TRUE(plan.site(*shared).is_quantized());
}

// FP8 has no blocks and fits any width.
TEST(Plan, Fp8FitsAnyWidth) {
  const auto network = mixed_network_with({{"moe_intermediate_size", 40}});
  EXPECT_TRUE(make_plan(load_recipe("mamba_moe_fp8_aggressive"), network->tree(), {})
                  .left_unquantized.empty());
}

// Per weight of a linear module: 4.5 NVFP4, 8 FP8, 16 BF16. The tiny network has 12,070,912, of
// which the head 4096 x 256.
TEST(Plan, BitsPerWeightOfTheTinyNetwork) {
  const auto network = tiny_network();
  const auto bits = [&](const Recipe& recipe) {
    return make_plan(recipe, network->tree(), {}).bits_per_weight();
  };
  constexpr double kWeights = 12'070'912;
  constexpr double kHead = 4096.0 * 256;
  EXPECT_DOUBLE_EQ(bits(load_recipe("nvfp4")), (4.5 * (kWeights - kHead) + 16 * kHead) / kWeights);
  EXPECT_NEAR(bits(load_recipe("nvfp4")), 5.50, 0.005);
  EXPECT_DOUBLE_EQ(bits(load_recipe("fp8")), (8 * (kWeights - kHead) + 16 * kHead) / kWeights);
  EXPECT_DOUBLE_EQ(bits(load_recipe("nvfp4_sweep")), bits(load_recipe("nvfp4")));
  EXPECT_DOUBLE_EQ(bits(load_recipe("w4a16_nvfp4")), bits(load_recipe("nvfp4")));

  Recipe all = load_recipe("fp8");
  all.rules.push_back({"lm_head.weight_quantizer", "", true,
                       QuantizerConfig{.format = formats::find_format("fp8_e4m3")}, "test"});
  EXPECT_DOUBLE_EQ(bits(all), 8);
}

// FP8 for head and Mamba-2, NVFP4 for the rest: 5.72 bits.
TEST(Plan, BitsPerWeightOfAMixedRecipe) {
  const auto network = tiny_network();
  Recipe recipe = load_recipe("nvfp4");
  const QuantizerConfig fp8{.format = formats::find_format("fp8_e4m3")};
  for (const char* pattern : {"*lm_head.weight_quantizer", "*mixer.in_proj.weight_quantizer",
                              "*mixer.in_proj.input_quantizer", "*mixer.out_proj.weight_quantizer",
                              "*mixer.out_proj.input_quantizer"}) {
    recipe.rules.push_back({pattern, "", true, fp8, "test"});
  }
  EXPECT_NEAR(make_plan(recipe, network->tree(), {}).bits_per_weight(), 5.72, 0.005);
}

}  // namespace
}  // namespace vernier::quant
