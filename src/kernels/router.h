// The MoE router: sigmoid scores, bias-corrected group-limited top-k, unbiased weights; and the
// order in which experts then meet their tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/any_matrix.h"

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
  Vector<int32_t> experts;  // [tokens * top_k], a token's in ascending order
  Vector<float> weights;    // [tokens * top_k]
};

// logits: FP32 [tokens, n_experts]. correction_bias: [n_experts], steers the choice and never the
// weights. The k best are taken, of equals the lower index.
Routing route(const RouterShape& shape, ConstAnyMatrixView logits,
              VectorView<const float> correction_bias);

// The (token, expert) pairs of a routing, sorted by expert, then by token.
struct ExpertGroups {
  std::vector<int64_t> begin;  // on the host: expert e owns pairs [begin[e], begin[e + 1])
  Vector<int32_t> tokens;      // [pairs]: the token of each
  Vector<int32_t> places;      // [tokens * top_k]: where a token's i-th pair lies among the sorted
};
// Waits for the device: the host must know how many tokens each expert has.
ExpertGroups group_by_expert(const Routing& routing, int64_t n_experts);

// r[t] += weights[t, i] * outputs[place - first] over the pairs i of token t whose place lies in
// [first, first + outputs.rows), in ascending order. r: FP32 [tokens, channels]. outputs: BF16 or
// FP32, the experts' outputs for these places.
void combine_experts(ConstAnyMatrixView outputs, int64_t first, const ExpertGroups& groups,
                     const Routing& routing, AnyMatrixView r);

}  // namespace vernier::kernels
