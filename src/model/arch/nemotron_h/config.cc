#include "model/arch/nemotron_h/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <string>

#include "io/json.h"
#include "model/arch/nemotron_h/config_reader.h"
#include "model/arch/nemotron_h/layer_pattern.h"

namespace vernier::model::nemotron_h {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Values that would change the numbers and are the same in every release.
void refuse_what_is_not_implemented(const ConfigReader& reader) {
  reader.require("mlp_hidden_act", "relu2");
  reader.require("mamba_hidden_act", "silu");
  reader.require("use_bias", false);
  reader.require("mamba_proj_bias", false);
  reader.require("mlp_bias", false);
  reader.require("attention_bias", false);
  reader.require("tie_word_embeddings", false);
  // Heterogeneous experts.
  reader.require("block_configs", nullptr);
  // Attention sees the whole sequence.
  reader.require("sliding_window", nullptr);
}

void check_divides(const ConfigReader& reader, std::string_view divisor_key, int64_t divisor,
                   std::string_view key, int64_t value) {
  reader.check(value % divisor == 0, fmt::format("{} is {}, which {} ({}) does not divide", key,
                                                 value, divisor_key, divisor));
}

// Products of two sizes must stay sizes.
void check_width(const ConfigReader& reader, std::string_view what, int64_t width) {
  constexpr int64_t kMaxWidth = int64_t{1} << 28;
  reader.check(width <= kMaxWidth,
               fmt::format("{} is {}, expected at most {}", what, width, kMaxWidth));
}

float bound(const ConfigReader& reader, const io::Json& limit, size_t index, float unlimited) {
  // A bare Infinity becomes null when a JSON library writes it again.
  if (limit[index].is_null()) return unlimited;
  if (!limit[index].is_number()) {
    reader.reject(ErrorKind::kCorrupt, "time_step_limit", limit, "a list of two numbers");
  }
  return limit[index].get<float>();
}

// The run-time clamp of dt. time_step_min, _max and _floor concern initialization only and are not
// read: readers that clamp by them compute another model.
void read_time_step_limit(const ConfigReader& reader, MambaConfig& mamba) {
  mamba.dt_low = 0;
  mamba.dt_high = kInfinity;
  const io::Json* limit = reader.find({"time_step_limit", "mamba_dt_limit"});
  if (limit == nullptr) return;
  if (!limit->is_array() || limit->size() != 2) {
    reader.reject(ErrorKind::kCorrupt, "time_step_limit", *limit, "a list of two numbers");
  }
  mamba.dt_low = bound(reader, *limit, 0, 0);
  mamba.dt_high = bound(reader, *limit, 1, kInfinity);
  if (!(mamba.dt_low >= 0 && mamba.dt_low <= mamba.dt_high)) {
    reader.reject(ErrorKind::kCorrupt, "time_step_limit", *limit, "0 <= low <= high");
  }
}

MambaConfig read_mamba(const ConfigReader& reader) {
  MambaConfig mamba;
  mamba.n_heads = reader.size({"mamba_num_heads"});
  mamba.head_dim = reader.size({"mamba_head_dim"});
  mamba.n_groups = reader.size({"n_groups", "mamba_n_groups", "mamba_num_groups"});
  mamba.state_dim = reader.size({"ssm_state_size", "mamba_state_dim"});
  mamba.conv_taps = reader.size({"conv_kernel", "mamba_d_conv"}, 4);
  mamba.chunk = reader.size({"chunk_size", "mamba_chunk_size"}, 128);
  mamba.has_conv_bias = reader.flag({"use_conv_bias", "mamba_conv_bias"}, true);
  read_time_step_limit(reader, mamba);
  // The chunked scan holds a chunk by chunk matrix.
  reader.check(mamba.chunk <= 4096,
               fmt::format("chunk_size is {}, expected at most 4096", mamba.chunk));
  check_divides(reader, "n_groups", mamba.n_groups, "mamba_num_heads", mamba.n_heads);
  check_width(reader, "the width of the Mamba input projection", mamba.in_proj_rows());
  return mamba;
}

AttentionConfig read_attention(const ConfigReader& reader) {
  AttentionConfig attention;
  attention.n_heads = reader.size({"num_attention_heads"});
  attention.n_kv_heads = reader.size({"num_key_value_heads"});
  attention.head_dim = reader.size({"head_dim", "attention_head_dim"});
  check_divides(reader, "num_key_value_heads", attention.n_kv_heads, "num_attention_heads",
                attention.n_heads);
  check_width(reader, "num_attention_heads * head_dim", attention.query_width());
  return attention;
}

void check_expert_groups(const ConfigReader& reader, const MoeConfig& moe) {
  check_divides(reader, "n_group", moe.n_groups, "n_routed_experts", moe.n_experts);
  const int64_t group_size = moe.n_experts / moe.n_groups;
  // A group's score is the sum of its two best experts'.
  reader.check(moe.n_groups == 1 || group_size >= 2,
               fmt::format("n_group is {}, which leaves {} expert in a group, expected at least 2",
                           moe.n_groups, group_size));
  reader.check(
      moe.top_groups <= moe.n_groups,
      fmt::format("topk_group is {}, expected at most n_group ({})", moe.top_groups, moe.n_groups));
  const int64_t n_eligible = group_size * moe.top_groups;
  reader.check(moe.top_k <= n_eligible,
               fmt::format("num_experts_per_tok is {}, expected at most the {} experts that the "
                           "router may choose among",
                           moe.top_k, n_eligible));
}

MoeConfig read_moe(const ConfigReader& reader) {
  // Bounds the module tree that a malformed file can make us build.
  constexpr int64_t kMaxExperts = 16384;
  MoeConfig moe;
  // One shared expert, whose width moe_shared_expert_intermediate_size gives in full.
  reader.require("n_shared_experts", 1);
  moe.n_experts = reader.size({"n_routed_experts"});
  moe.top_k = reader.size({"num_experts_per_tok"});
  moe.width = reader.size({"moe_intermediate_size"});
  moe.shared_width = reader.size({"moe_shared_expert_intermediate_size"});
  if (reader.find({"moe_latent_size"}) != nullptr) {
    moe.latent_size = reader.size({"moe_latent_size"});
  }
  moe.n_groups = reader.size({"n_group"}, 1);
  moe.top_groups = reader.size({"topk_group"}, 1);
  moe.normalizes_weights = reader.flag({"norm_topk_prob"}, true);
  const double scale = reader.number({"routed_scaling_factor"}, 1.0);
  reader.check(
      scale > 0 && scale < 1e6,
      fmt::format("routed_scaling_factor is {}, expected a value above 0 and below 1e6", scale));
  moe.scale = static_cast<float>(scale);
  reader.check(
      moe.n_experts <= kMaxExperts,
      fmt::format("n_routed_experts is {}, expected at most {}", moe.n_experts, kMaxExperts));
  check_expert_groups(reader, moe);
  return moe;
}

// intermediate_size is one width, or a list of one for each MLP layer.
std::vector<int64_t> read_mlp_widths(const ConfigReader& reader,
                                     const std::vector<LayerKind>& layers) {
  std::vector<int64_t> widths(layers.size(), 0);
  const auto n_mlps =
      static_cast<size_t>(std::count(layers.begin(), layers.end(), LayerKind::kMlp));
  if (n_mlps == 0) return widths;
  const io::Json* value = reader.find({"intermediate_size"});
  const bool is_list = value != nullptr && value->is_array();
  reader.check(!is_list || value->size() == n_mlps,
               fmt::format("intermediate_size lists {} widths, expected one for each of the {} MLP "
                           "layers",
                           is_list ? value->size() : 0, n_mlps));
  size_t n_read = 0;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    if (layers[layer] != LayerKind::kMlp) continue;
    if (is_list) {
      widths[layer] = reader.as_size("intermediate_size", (*value)[n_read++]);
    } else {
      widths[layer] = reader.size({"intermediate_size"});
    }
  }
  return widths;
}

DType read_dtype(const ConfigReader& reader) {
  const io::Json* value = reader.find({"dtype", "torch_dtype"});
  if (value == nullptr || io::is_string(*value, "bfloat16")) return DType::kBF16;
  if (io::is_string(*value, "float16")) return DType::kF16;
  if (io::is_string(*value, "float32")) return DType::kF32;
  reader.reject(ErrorKind::kUnsupported, "dtype", *value, "bfloat16, float16 or float32");
}

bool holds(const Config& config, LayerKind kind) {
  return std::find(config.layers.begin(), config.layers.end(), kind) != config.layers.end();
}

}  // namespace

Config parse_config(const io::Json& json, std::string_view origin) {
  const ConfigReader reader(json, origin);
  refuse_what_is_not_implemented(reader);
  Config config;
  config.layers = read_layer_kinds(reader);
  config.vocab_size = reader.size({"vocab_size"});
  config.hidden_size = reader.size({"hidden_size"});
  const double eps = reader.number({"layer_norm_epsilon", "norm_eps", "rms_norm_eps"}, 1e-5);
  reader.check(eps > 0 && eps < 1,
               fmt::format("layer_norm_epsilon is {}, expected a value between 0 and 1", eps));
  config.norm_eps = static_cast<float>(eps);
  config.dtype = read_dtype(reader);
  if (holds(config, LayerKind::kMamba)) config.mamba = read_mamba(reader);
  if (holds(config, LayerKind::kAttention)) config.attention = read_attention(reader);
  if (holds(config, LayerKind::kMoe)) config.moe = read_moe(reader);
  config.mlp_widths = read_mlp_widths(reader, config.layers);
  return config;
}

}  // namespace vernier::model::nemotron_h
