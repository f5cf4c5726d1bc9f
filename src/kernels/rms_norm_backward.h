// Gradients of the root-mean-square norms (rms_norm.h), in FP32 arithmetic.
#pragma once

#include "tensor/any_matrix.h"

namespace vernier::kernels {

// With r = 1 / sqrt(mean_c(x[t]^2) + eps), n = r x and g = w g_y:
//   g_x += r (g - n mean_c(g n)),   g_weight += sum_t g_y n.
// x, g_y: [tokens, channels], each BF16 or FP32 (host: FP32). g_x: FP32 [tokens, channels], the
// residual stream's gradient: added to. g_weight: [channels], added to, or empty: not wanted.
void rms_norm_backward(ConstAnyMatrixView x, VectorView<const float> weight, float eps,
                       ConstAnyMatrixView g_y, AnyMatrixView g_x, VectorView<float> g_weight);

// With q = x silu(gate), and r, n, g of q and of each group as above:
//   g_q = r (g - n mean_group(g n)),   g_x = g_q silu(gate),   g_gate = g_q x silu'(gate),
//   g_weight += sum_t g_y n.
// x, gate, g_y, g_x, g_gate: [tokens, channels], of one type; g_x and g_gate are overwritten, g_x
// may be g_y. g_weight: [channels], added to, or empty: not wanted. REQUIRES: channels % n_groups
// == 0.
void gated_group_norm_backward(ConstAnyMatrixView x, ConstAnyMatrixView gate,
                               VectorView<const float> weight, int64_t n_groups, float eps,
                               ConstAnyMatrixView g_y, AnyMatrixView g_x, AnyMatrixView g_gate,
                               VectorView<float> g_weight);

}  // namespace vernier::kernels
