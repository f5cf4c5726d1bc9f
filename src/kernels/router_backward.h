// Gradients of the MoE router and of the ways of tokens to their experts and back (router.h).
#pragma once

#include "kernels/router.h"
#include "tensor/any_matrix.h"

namespace vernier::kernels {

// Of combine_experts: for every pair i of a token t whose place lies in [first, first +
// outputs.rows),
//   g_outputs[place - first] = weights[t, i] * g_r[t],
//   g_weights[t * top_k + i] = <g_r[t], outputs[place - first]>.
// g_r: [tokens, channels], BF16 or FP32 (host: FP32). outputs, g_outputs: [pairs here, channels],
// of one type, BF16 or FP32; g_outputs is overwritten and may be outputs. g_weights: FP32 [tokens *
// top_k], overwritten for these pairs only, so that batches of experts fill it together.
void combine_experts_backward(ConstAnyMatrixView g_r, int64_t first, const ExpertGroups& groups,
                              const Routing& routing, ConstAnyMatrixView outputs,
                              AnyMatrixView g_outputs, VectorView<float> g_weights);

// Of gathering the tokens of pairs [first, first + g_y.rows), y[place - first] = x[tokens[place]]:
//   g_x[t] += sum of g_y[place - first] over the token's places in that range, in ascending order.
// g_y: [pairs here, channels], BF16 or FP32 (host: FP32). g_x: FP32 [tokens, channels].
void gather_rows_backward(ConstAnyMatrixView g_y, int64_t first, const ExpertGroups& groups,
                          int64_t top_k, AnyMatrixView g_x);

// Of route, at the logits and the routing that it gave: the choice has no gradient, and with s =
// sigmoid(logits), S = 1e-20 + the sum of the chosen s, for a chosen expert
//   g_s = scale / S * (g_w - sum_j g_w_j s_j / S), or scale * g_w without shape.normalize,
//   g_logits = g_s s (1 - s).
// g_weights: FP32 [tokens * top_k], of routing.weights. g_logits: FP32 [tokens, n_experts],
// overwritten, zero for the others; distinct from logits.
void route_backward(const RouterShape& shape, ConstAnyMatrixView logits, const Routing& routing,
                    VectorView<const float> g_weights, AnyMatrixView g_logits);

}  // namespace vernier::kernels
