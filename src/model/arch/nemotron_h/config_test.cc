#include "model/arch/nemotron_h/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "base/error.h"
#include "io/json.h"
#include "model/arch/nemotron_h/names.h"
#include "model/model.h"

namespace vernier::model::nemotron_h {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kSuper[] = R"({
  "architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", "torch_dtype": "bfloat16",
  "hybrid_override_pattern":
    "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME",
  "num_hidden_layers": 88, "vocab_size": 131072, "hidden_size": 4096,
  "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "attention_bias": false,
  "rope_theta": 10000, "partial_rotary_factor": 1.0, "max_position_embeddings": 262144,
  "mamba_num_heads": 128, "mamba_head_dim": 64, "n_groups": 8, "ssm_state_size": 128,
  "conv_kernel": 4, "chunk_size": 128, "expand": 2, "use_conv_bias": true, "use_bias": false,
  "mamba_proj_bias": false, "mamba_hidden_act": "silu", "mamba_ssm_cache_dtype": "float16",
  "time_step_limit": [0.0, Infinity], "time_step_min": 0.001, "time_step_max": 0.1,
  "n_routed_experts": 512, "num_experts_per_tok": 22, "moe_intermediate_size": 2688,
  "moe_latent_size": 1024, "n_shared_experts": 1, "moe_shared_expert_intermediate_size": 5376,
  "n_group": 1, "topk_group": 1, "norm_topk_prob": true, "routed_scaling_factor": 5.0,
  "intermediate_size": 2688, "mlp_hidden_act": "relu2", "mlp_bias": false, "sliding_window": null,
  "layer_norm_epsilon": 1e-05, "norm_eps": 1e-05, "tie_word_embeddings": false,
  "num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E", "eos_token_id": 2
})";

// The list form with its old names, and the spellings of older exports.
constexpr char kNano[] = R"({
  "model_type": "nemotron_h", "dtype": "bfloat16", "num_hidden_layers": null,
  "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
  "vocab_size": 131072, "hidden_size": 2688,
  "num_attention_heads": 32, "num_key_value_heads": 2, "attention_head_dim": 128,
  "mamba_num_heads": 64, "mamba_head_dim": 64, "mamba_num_groups": 8, "mamba_state_dim": 128,
  "mamba_d_conv": 4, "mamba_chunk_size": 128, "mamba_conv_bias": true,
  "n_routed_experts": 128, "num_experts_per_tok": 6, "moe_intermediate_size": 1856,
  "moe_shared_expert_intermediate_size": 3712, "moe_latent_size": null, "routed_scaling_factor": 2.5,
  "rms_norm_eps": 1e-05
})";

// The smallest stack with one layer of each kind.
constexpr char kSmall[] = R"({
  "model_type": "nemotron_h", "hybrid_override_pattern": "M*-E", "vocab_size": 32,
  "hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
  "mamba_num_heads": 4, "mamba_head_dim": 4, "n_groups": 2, "ssm_state_size": 8,
  "intermediate_size": 24, "n_routed_experts": 4, "num_experts_per_tok": 2,
  "moe_intermediate_size": 16, "moe_shared_expert_intermediate_size": 32
})";

Config parse(std::string_view text) {
  return parse_config(io::parse_json(text, "config.json"), "config.json");
}

// kSmall with keys replaced or added; a null value removes.
io::Json changed(std::string_view changes) {
  io::Json config = io::parse_json(kSmall, "config.json");
  const io::Json parsed = io::parse_json(changes, "changes");
  for (const auto& [key, value] : parsed.items()) {
    if (value.is_null()) {
      config.erase(key);
    } else {
      config[key] = value;
    }
  }
  return config;
}

Config parse_changed(std::string_view changes) { return parse_config(changed(changes), "c.json"); }

int64_t n_parameters(const ModuleTree& tree) {
  int64_t n = 0;
  for (const Module& module : tree.modules()) {
    for (const TensorSpec& tensor : module.tensors) {
      // Correction biases are buffers, not parameters.
      if (!tensor.name.ends_with("e_score_correction_bias")) n += n_elems(tensor.shape);
    }
  }
  return n;
}

TEST(NemotronHConfig, SuperHasItsPublishedNumberOfParameters) {
  const Config config = parse(kSuper);
  EXPECT_EQ(config.layers.size(), 88u);
  EXPECT_EQ(config.mamba.in_proj_rows(), 18560);
  EXPECT_EQ(config.mamba.conv_channels(), 10240);
  EXPECT_EQ(config.expert_io(), 1024);
  EXPECT_EQ(n_parameters(build_module_tree(config)), 120'668'687'360);
}

TEST(NemotronHConfig, NanoHasItsPublishedNumberOfParameters) {
  const Config config = parse(kNano);
  EXPECT_EQ(config.layers.size(), 52u);
  EXPECT_EQ(config.expert_io(), 2688);
  EXPECT_EQ(n_parameters(build_module_tree(config)), 31'577'937'344);
}

TEST(NemotronHConfig, ActiveWeightsCountTopKExperts) {
  // 12,770,216,960 active parameters less embeddings, norms, routers, convolutions and head
  // vectors.
  const auto model = open_model(io::parse_json(kSuper, "config.json"), "config.json");
  const int64_t not_linear = 131072LL * 4096 + 4096 +  // embeddings, final norm
                             88LL * 4096 +             // norms
                             40LL * (10240 * 4 + 10240 + 3 * 128 + 8192) + 40LL * 512 * 4096;
  EXPECT_EQ(model->active_weights(), 12'770'216'960 - not_linear);
}

TEST(NemotronHConfig, ReadsValues) {
  const Config config = parse(kSuper);
  EXPECT_FLOAT_EQ(config.norm_eps, 1e-5f);
  EXPECT_FLOAT_EQ(config.moe.scale, 5.0f);
  EXPECT_EQ(config.moe.top_k, 22);
  EXPECT_EQ(config.attention.kv_width(), 256);
  EXPECT_EQ(config.dtype, DType::kBF16);
  EXPECT_EQ(config.mamba.dt_low, 0.0f);
  EXPECT_EQ(config.mamba.dt_high, std::numeric_limits<float>::infinity());
}

TEST(NemotronHConfig, AcceptsEverySpellingOfTheStack) {
  const auto kinds = {LayerKind::kMamba, LayerKind::kAttention, LayerKind::kMlp, LayerKind::kMoe};
  for (
      const char* changes : {
          R"({})",
          R"({"num_hidden_layers": 7})",
          R"({"hybrid_override_pattern": "M*|-E"})",
          R"({"hybrid_override_pattern": "M*-E/*E/*E"})",
          R"({"hybrid_override_pattern": null, "layers_block_type": ["mamba", "attention", "mlp", "moe"]})",
          R"({"hybrid_override_pattern": null,
               "layer_types": ["linear_attention", "full_attention", "mlp", "moe"]})",
          R"({"layers_block_type": ["mamba", "full_attention", "mlp", "moe"]})",
      }) {
    EXPECT_EQ(parse_changed(changes).layers, std::vector<LayerKind>(kinds)) << changes;
  }
}

TEST(NemotronHConfig, AcceptsEveryFormOfTheTimeStepLimit) {
  const float infinity = std::numeric_limits<float>::infinity();
  const auto limit = [](std::string_view changes) {
    const MambaConfig mamba = parse_changed(changes).mamba;
    return std::make_pair(mamba.dt_low, mamba.dt_high);
  };
  EXPECT_EQ(limit(R"({"time_step_limit": [0.0, Infinity]})"), std::make_pair(0.0f, infinity));
  EXPECT_EQ(limit(R"({"time_step_limit": [0, {"__float__": "Infinity"}]})"),
            std::make_pair(0.0f, infinity));
  EXPECT_EQ(limit(R"({"time_step_limit": [0.0, null]})"), std::make_pair(0.0f, infinity));
  EXPECT_EQ(limit(R"({"mamba_dt_limit": [0.5, 2]})"), std::make_pair(0.5f, 2.0f));
  // Bounds of the initialization are no clamp.
  EXPECT_EQ(limit(R"({"time_step_min": 0.001, "mamba_dt_max": 0.1})"),
            std::make_pair(0.0f, infinity));
}

TEST(NemotronHConfig, ReadsOneMlpWidthOrOneForEachLayer) {
  EXPECT_THAT(parse_changed(R"({})").mlp_widths, ElementsAre(0, 0, 24, 0));
  EXPECT_THAT(parse_changed(R"({"hybrid_override_pattern": "-M-", "intermediate_size": [16, 40]})")
                  .mlp_widths,
              ElementsAre(16, 0, 40));
}

TEST(NemotronHConfig, NeedsOnlyTheKeysOfItsLayers) {
  const Config config = parse_config(
      io::parse_json(R"({"layers_block_type": ["mlp"], "vocab_size": 4, "hidden_size": 4,
                         "intermediate_size": 8})",
                     "config.json"),
      "config.json");
  EXPECT_EQ(build_module_tree(config).modules().size(), 6u);
}

struct Refusal {
  const char* changes;
  ErrorKind kind;
  const char* message;
};

class RefusedConfig : public ::testing::TestWithParam<Refusal> {};

TEST_P(RefusedConfig, SaysWhy) {
  try {
    parse_changed(GetParam().changes);
    FAIL() << GetParam().changes;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), GetParam().kind);
    EXPECT_EQ(error.message(), std::string("c.json: ") + GetParam().message);
  }
}

constexpr Refusal kRefusals[] = {
    // Not implemented.
    {R"({"mlp_hidden_act": "silu"})", ErrorKind::kUnsupported,
     R"(mlp_hidden_act is "silu", expected "relu2" (nothing else is implemented))"},
    {R"({"mamba_hidden_act": "gelu"})", ErrorKind::kUnsupported,
     R"(mamba_hidden_act is "gelu", expected "silu" (nothing else is implemented))"},
    {R"({"use_bias": true})", ErrorKind::kUnsupported,
     "use_bias is true, expected false (nothing else is implemented)"},
    {R"({"mamba_proj_bias": true})", ErrorKind::kUnsupported,
     "mamba_proj_bias is true, expected false (nothing else is implemented)"},
    {R"({"mlp_bias": true})", ErrorKind::kUnsupported,
     "mlp_bias is true, expected false (nothing else is implemented)"},
    {R"({"attention_bias": true})", ErrorKind::kUnsupported,
     "attention_bias is true, expected false (nothing else is implemented)"},
    {R"({"tie_word_embeddings": true})", ErrorKind::kUnsupported,
     "tie_word_embeddings is true, expected false (nothing else is implemented)"},
    {R"({"n_shared_experts": 2})", ErrorKind::kUnsupported,
     "n_shared_experts is 2, expected 1 (nothing else is implemented)"},
    {R"({"block_configs": []})", ErrorKind::kUnsupported,
     "block_configs is [], expected null (nothing else is implemented)"},
    {R"({"sliding_window": 4096})", ErrorKind::kUnsupported,
     "sliding_window is 4096, expected null (nothing else is implemented)"},
    {R"({"dtype": "int8"})", ErrorKind::kUnsupported,
     R"(dtype is "int8", expected bfloat16, float16 or float32)"},
    // The stack.
    {R"({"hybrid_override_pattern": "M*-X"})", ErrorKind::kCorrupt,
     R"(hybrid_override_pattern has an unknown layer kind at position 3 of "M*-X", expected one of M (Mamba), * (attention), - (MLP), E (MoE))"},
    {R"({"hybrid_override_pattern": 4})", ErrorKind::kCorrupt,
     "hybrid_override_pattern is 4, expected a string"},
    {R"({"hybrid_override_pattern": "/*E"})", ErrorKind::kCorrupt,
     "hybrid_override_pattern describes 0 layers, expected 1 to 4096"},
    {R"({"hybrid_override_pattern": null})", ErrorKind::kCorrupt,
     "neither hybrid_override_pattern nor layers_block_type is there, which say what each layer "
     "is"},
    {R"({"hybrid_override_pattern": null, "layers_block_type": ["mamba", "rnn"]})",
     ErrorKind::kCorrupt,
     R"(layers_block_type[1] is "rnn", expected one of mamba, linear_attention, attention, full_attention, mlp, moe)"},
    {R"({"hybrid_override_pattern": null, "layer_types": "mamba"})", ErrorKind::kCorrupt,
     R"(layer_types is "mamba", expected a list)"},
    {R"({"layers_block_type": ["mamba"]})", ErrorKind::kCorrupt,
     "hybrid_override_pattern and layers_block_type describe different stacks of layers"},
    // Sizes.
    {R"({"hidden_size": null})", ErrorKind::kCorrupt, "hidden_size is missing"},
    {R"({"hidden_size": 0})", ErrorKind::kCorrupt,
     "hidden_size is 0, expected an integer of 1 to 16777216"},
    {R"({"vocab_size": -5})", ErrorKind::kCorrupt,
     "vocab_size is -5, expected an integer of 1 to 16777216"},
    {R"({"vocab_size": 18446744073709551615})", ErrorKind::kCorrupt,
     "vocab_size is 18446744073709551615, expected an integer of 1 to 16777216"},
    {R"({"head_dim": 4.5})", ErrorKind::kCorrupt,
     "head_dim is 4.5, expected an integer of 1 to 16777216"},
    {R"({"head_dim": 4, "attention_head_dim": 8})", ErrorKind::kCorrupt,
     "head_dim is 4 but attention_head_dim is 8; they are two spellings of one value"},
    {R"({"n_groups": 3})", ErrorKind::kCorrupt,
     "mamba_num_heads is 4, which n_groups (3) does not divide"},
    {R"({"mamba_num_heads": 1048576, "mamba_head_dim": 1048576})", ErrorKind::kCorrupt,
     "the width of the Mamba input projection is 2199024304160, expected at most 268435456"},
    {R"({"chunk_size": 8192})", ErrorKind::kCorrupt, "chunk_size is 8192, expected at most 4096"},
    {R"({"use_conv_bias": 1})", ErrorKind::kCorrupt, "use_conv_bias is 1, expected true or false"},
    {R"({"num_key_value_heads": 3})", ErrorKind::kCorrupt,
     "num_attention_heads is 4, which num_key_value_heads (3) does not divide"},
    {R"({"num_attention_heads": 1048576, "head_dim": 1048576})", ErrorKind::kCorrupt,
     "num_attention_heads * head_dim is 1099511627776, expected at most 268435456"},
    {R"({"layer_norm_epsilon": 0})", ErrorKind::kCorrupt,
     "layer_norm_epsilon is 0, expected a value between 0 and 1"},
    {R"({"layer_norm_epsilon": "1e-5"})", ErrorKind::kCorrupt,
     R"(layer_norm_epsilon is "1e-5", expected a finite number)"},
    {R"({"intermediate_size": [24, 24]})", ErrorKind::kCorrupt,
     "intermediate_size lists 2 widths, expected one for each of the 1 MLP layers"},
    // The time step's limit.
    {R"({"time_step_limit": 3})", ErrorKind::kCorrupt,
     "time_step_limit is 3, expected a list of two numbers"},
    {R"({"time_step_limit": ["a", 1]})", ErrorKind::kCorrupt,
     R"(time_step_limit is ["a",1], expected a list of two numbers)"},
    {R"({"time_step_limit": [2, 1]})", ErrorKind::kCorrupt,
     "time_step_limit is [2,1], expected 0 <= low <= high"},
    // Experts.
    {R"({"num_experts_per_tok": 5})", ErrorKind::kCorrupt,
     "num_experts_per_tok is 5, expected at most the 4 experts that the router may choose among"},
    {R"({"n_group": 2, "num_experts_per_tok": 3})", ErrorKind::kCorrupt,
     "num_experts_per_tok is 3, expected at most the 2 experts that the router may choose among"},
    {R"({"n_group": 3})", ErrorKind::kCorrupt,
     "n_routed_experts is 4, which n_group (3) does not divide"},
    {R"({"n_group": 4})", ErrorKind::kCorrupt,
     "n_group is 4, which leaves 1 expert in a group, expected at least 2"},
    {R"({"topk_group": 2})", ErrorKind::kCorrupt, "topk_group is 2, expected at most n_group (1)"},
    {R"({"n_routed_experts": 100000})", ErrorKind::kCorrupt,
     "n_routed_experts is 100000, expected at most 16384"},
    {R"({"routed_scaling_factor": 0})", ErrorKind::kCorrupt,
     "routed_scaling_factor is 0, expected a value above 0 and below 1e6"},
};

INSTANTIATE_TEST_SUITE_P(All, RefusedConfig, ::testing::ValuesIn(kRefusals));

TEST(NemotronHConfig, RefusesWhatIsNoObject) { EXPECT_THROW(parse("[1]"), Error); }

TEST(OpenModel, NamesTheKnownArchitectures) {
  try {
    open_model(io::parse_json(R"({"model_type": "llama"})", "x"), "dir/config.json");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_EQ(error.message(),
              R"(dir/config.json: model_type is "llama", expected one of: nemotron_h)");
  }
  try {
    open_model(io::parse_json("{}", "x"), "dir/config.json");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.message(), HasSubstr("dir/config.json: model_type is missing"));
  }
}

std::vector<std::string> module_names(const Config& config) {
  std::vector<std::string> names;
  const ModuleTree tree = build_module_tree(config);
  for (const Module& module : tree.modules()) names.push_back(module.name);
  return names;
}

TEST(NemotronHTree, FollowsTheNetwork) {
  EXPECT_THAT(module_names(parse_changed(
                  R"({"n_routed_experts": 2, "num_experts_per_tok": 1, "moe_latent_size": 4})")),
              ElementsAre("backbone.embeddings",  //
                          "backbone.layers.0.norm", "backbone.layers.0.mixer.conv1d",
                          "backbone.layers.0.mixer.in_proj", "backbone.layers.0.mixer",
                          "backbone.layers.0.mixer.norm", "backbone.layers.0.mixer.out_proj",
                          "backbone.layers.1.norm", "backbone.layers.1.mixer.q_proj",
                          "backbone.layers.1.mixer.k_proj", "backbone.layers.1.mixer.v_proj",
                          "backbone.layers.1.mixer.o_proj",  //
                          "backbone.layers.2.norm", "backbone.layers.2.mixer.up_proj",
                          "backbone.layers.2.mixer.down_proj",  //
                          "backbone.layers.3.norm", "backbone.layers.3.mixer.gate",
                          "backbone.layers.3.mixer.experts.0.up_proj",
                          "backbone.layers.3.mixer.experts.0.down_proj",
                          "backbone.layers.3.mixer.experts.1.up_proj",
                          "backbone.layers.3.mixer.experts.1.down_proj",
                          "backbone.layers.3.mixer.shared_experts.up_proj",
                          "backbone.layers.3.mixer.shared_experts.down_proj",
                          "backbone.layers.3.mixer.fc1_latent_proj",
                          "backbone.layers.3.mixer.fc2_latent_proj", "backbone.norm_f", "lm_head"));
}

TEST(NemotronHTree, FindsModulesTensorsAndGroups) {
  const ModuleTree tree = build_module_tree(parse_changed("{}"));
  const Module* k_proj = tree.find("backbone.layers.1.mixer.k_proj");
  ASSERT_NE(k_proj, nullptr);
  EXPECT_EQ(k_proj->n, 8);
  EXPECT_EQ(k_proj->k, 8);
  EXPECT_EQ(k_proj->layer, 1);
  EXPECT_EQ(k_proj->expert, -1);
  EXPECT_EQ(k_proj->fusion_group, "backbone.layers.1.mixer.qkv_proj");
  EXPECT_EQ(tree.owner_of("backbone.layers.1.mixer.k_proj.weight"), k_proj);
  EXPECT_EQ(tree.find("backbone.layers.1.mixer.o_proj")->fusion_group, "");

  const Module* expert = tree.find("backbone.layers.3.mixer.experts.2.down_proj");
  ASSERT_NE(expert, nullptr);
  EXPECT_EQ(expert->expert, 2);
  EXPECT_EQ(expert->expert_group, "backbone.layers.3.mixer.experts.down_proj");

  const Cut& in_proj = tree.find("backbone.layers.0.mixer.in_proj")->tensors[0].cut;
  EXPECT_EQ(in_proj.kind, CutKind::kRows);
  EXPECT_EQ(in_proj.segments.size(), 5u);
  EXPECT_TRUE(k_proj->tensors[0].cut.repeats);
  EXPECT_EQ(expert->tensors[0].cut.kind, CutKind::kExpert);
  EXPECT_EQ(tree.find("backbone.norm_f")->tensors[0].cut.kind, CutKind::kWhole);

  EXPECT_EQ(tree.owner_of("backbone.layers.0.mixer.D"), tree.find("backbone.layers.0.mixer"));
  EXPECT_EQ(tree.find("backbone.layers.0.mixer")->kind, ModuleKind::kParameter);
  EXPECT_EQ(tree.find("backbone.layers.3.mixer.gate")->kind, ModuleKind::kRouter);
  EXPECT_EQ(tree.find("mtp.layers.0.eh_proj"), nullptr);
  EXPECT_EQ(tree.owner_of("mtp.layers.0.eh_proj.weight"), nullptr);

  EXPECT_EQ(tree.modules_of(2).size(), 3u);
  EXPECT_EQ(tree.modules_of(-1).size(), 3u);
  ASSERT_EQ(tree.attentions().size(), 1u);
  EXPECT_EQ(tree.attentions()[0].k_proj, "backbone.layers.1.mixer.k_proj");
}

TEST(NemotronHTree, LeavesOutTheConvolutionBiasWhenThereIsNone) {
  const ModuleTree with = build_module_tree(parse_changed("{}"));
  const ModuleTree without = build_module_tree(parse_changed(R"({"use_conv_bias": false})"));
  EXPECT_NE(with.owner_of("backbone.layers.0.mixer.conv1d.bias"), nullptr);
  EXPECT_EQ(without.owner_of("backbone.layers.0.mixer.conv1d.bias"), nullptr);
}

}  // namespace
}  // namespace vernier::model::nemotron_h
