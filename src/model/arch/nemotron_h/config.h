// The config.json of the Nemotron-H family (Nemotron-H, Nemotron 3 Nano, Super, Ultra) as a typed
// struct, whichever of its spellings a release uses.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "io/json_fwd.h"
#include "model/module.h"

namespace vernier::model::nemotron_h {

struct MambaConfig {
  int64_t n_heads = 0;
  int64_t head_dim = 0;
  int64_t n_groups = 0;
  int64_t state_dim = 0;
  int64_t conv_taps = 0;
  int64_t chunk = 0;  // of the scan; numerics only
  bool has_conv_bias = true;
  float dt_low = 0;  // clamp of dt after softplus
  float dt_high = 0;

  // Never `expand` * hidden_size, which differs in the releases.
  int64_t inner() const { return n_heads * head_dim; }
  int64_t conv_channels() const { return inner() + 2 * n_groups * state_dim; }  // x, B, C
  int64_t in_proj_rows() const { return inner() + conv_channels() + n_heads; }  // z, x, B, C, dt
};

struct AttentionConfig {
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;

  int64_t query_width() const { return n_heads * head_dim; }
  int64_t kv_width() const { return n_kv_heads * head_dim; }
};

struct MoeConfig {
  int64_t n_experts = 0;
  int64_t top_k = 0;
  int64_t width = 0;         // of a routed expert's hidden layer
  int64_t shared_width = 0;  // of the shared expert's
  int64_t latent_size = 0;   // 0: experts work at the model's width
  int64_t n_groups = 1;
  int64_t top_groups = 1;
  bool normalizes_weights = true;
  float scale = 1;
};

struct Config {
  std::vector<LayerKind> layers;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  float norm_eps = 0;
  DType dtype = DType::kBF16;

  // Each is filled in only when the stack holds such a layer.
  MambaConfig mamba;
  AttentionConfig attention;
  MoeConfig moe;
  std::vector<int64_t> mlp_widths;  // by position in the stack; 0 where the layer is no MLP

  // The width routed experts read and write.
  int64_t expert_io() const { return moe.latent_size > 0 ? moe.latent_size : hidden_size; }
};

// `origin` names the file in errors. Throws Corrupt for a missing, malformed or contradictory
// value, Unsupported for a value that would change the numbers and is not implemented.
Config parse_config(const io::Json& config, std::string_view origin);

}  // namespace vernier::model::nemotron_h
