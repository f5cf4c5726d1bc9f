// The MoE router: sigmoid scores, bias-corrected group-limited top-k, unbiased weights.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tensor/matrix.h"

namespace vernier::kernels {

struct RouterShape {
  int64_t n_experts;
  int64_t top_k;
  int64_t n_groups;    // experts fall into contiguous groups
  int64_t top_groups;  // groups kept; a group's score is the sum of its two best biased scores
  bool normalize;      // divide the weights by their sum + 1e-20
  float scale;         // routed_scaling_factor
};

struct Routing {
  int64_t top_k = 0;
  std::vector<int32_t> experts;  // [tokens, top_k], best first; ties go to the lower index
  std::vector<float> weights;    // [tokens, top_k]
};

// logits: [tokens, n_experts]. correction_bias: [n_experts], steers the choice and never the
// weights.
Routing route(const RouterShape& shape, ConstMatrixView logits,
              std::span<const float> correction_bias);

}  // namespace vernier::kernels
