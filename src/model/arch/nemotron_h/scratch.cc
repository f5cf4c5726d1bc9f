// Follows the mixers' forward() line by line: a temporary there is a term here.
#include "model/arch/nemotron_h/scratch.h"

#include <algorithm>

#include "model/layers/moe.h"
#include "model/layers/residual_layer.h"

namespace vernier::model::nemotron_h {
namespace {

constexpr int64_t kFloatBytes = 4;

// Values a token, by width in bytes.
struct TokenScratch {
  int64_t n_activations = 0;  // of the compute type
  int64_t n_floats = 0;       // FP32 or int32, whatever the compute type
  int64_t n_codes = 0;        // of 8 bits

  int64_t bytes(int64_t activation_bytes) const {
    return n_activations * activation_bytes + n_floats * kFloatBytes + n_codes;
  }
};

TokenScratch mamba_scratch(const MambaConfig& mamba) {
  const int64_t projected = mamba.in_proj_rows();
  return {projected + mamba.conv_channels() + mamba.inner(), mamba.n_heads};
}

// Codes of queries, which an FP8 cache on a device asks for, are counted with any cache.
TokenScratch attention_scratch(const AttentionConfig& attention, const Device* device) {
  const int64_t q_width = attention.n_heads * attention.head_dim;
  return {.n_activations = q_width + 2 * attention.kv_width(),
          .n_codes = device == nullptr ? 0 : q_width};
}

// Without the experts' batch: router, routing and its order, the routed sum, the latent space.
TokenScratch moe_scratch(const Config& config) {
  const MoeConfig& moe = config.moe;
  const int64_t latent = moe.latent_size;
  return {latent, moe.n_experts + 4 * moe.top_k + config.hidden_size + latent};
}

int64_t moe_bytes(const Config& config, int64_t n_tokens, int64_t activation_bytes,
                  const Device* device) {
  const MoeConfig& moe = config.moe;
  const int64_t n_pairs = n_tokens * moe.top_k;
  const int64_t batch = std::min(n_pairs, std::max(expert_batch_pairs(device), n_tokens));
  const int64_t batch_bytes = batch * (2 * config.expert_io() + moe.width) * activation_bytes;
  const int64_t shared_bytes = n_tokens * moe.shared_width * activation_bytes;
  return n_tokens * moe_scratch(config).bytes(activation_bytes) +
         std::max(batch_bytes, shared_bytes);
}

int64_t mixer_bytes(const Config& config, int layer, int64_t n_tokens, int64_t activation_bytes,
                    const Device* device) {
  const auto index = static_cast<size_t>(layer);
  switch (config.layers[index]) {
    case LayerKind::kMamba:
      return n_tokens * mamba_scratch(config.mamba).bytes(activation_bytes);
    case LayerKind::kAttention:
      return n_tokens * attention_scratch(config.attention, device).bytes(activation_bytes);
    case LayerKind::kMlp:
      return n_tokens * config.mlp_widths[index] * activation_bytes;
    case LayerKind::kMoe:
      return moe_bytes(config, n_tokens, activation_bytes, device);
  }
  return 0;
}

}  // namespace

int64_t scratch_bytes(const Config& config, int layer, int64_t n_tokens, const Device* device) {
  const int64_t piece = std::min(n_tokens, piece_tokens(device));
  const int64_t activation_bytes = dtype_info(compute_dtype(device)).bits / 8;
  const int64_t residual = piece * config.hidden_size * (activation_bytes + kFloatBytes);
  return residual + mixer_bytes(config, layer, piece, activation_bytes, device);
}

}  // namespace vernier::model::nemotron_h
