// Gradient of Mamba-2's causal convolution with its SiLU (causal_conv.h), of whole sequences.
#pragma once

#include <span>

#include "kernels/sequence_span.h"
#include "tensor/any_matrix.h"

namespace vernier::kernels {

// Within each sequence, which starts from a history of zeros, with p the sum before the SiLU,
// computed again, and g_p = g_y silu'(p), zero outside the sequence:
//   g_x[s, c] = sum_j weight[c, j] g_p[s + taps - 1 - j, c]
//   g_weight[c, j] += sum_t g_p[t, c] x[t - taps + 1 + j, c],   g_bias[c] += sum_t g_p[t, c].
//   x, g_y, g_x: [tokens, channels], of one type (device: BF16 or FP32); g_x is overwritten, except
//   in rows of no sequence, and distinct from both. weight: FP32 [channels, taps]. bias: [channels]
//   or empty. g_weight: FP32 [channels, taps], added to, or an empty view: not wanted. g_bias:
//   [channels], added to, or empty. FP32 arithmetic.
void causal_conv_silu_backward(ConstAnyMatrixView x, ConstAnyMatrixView weight,
                               VectorView<const float> bias,
                               std::span<const SequenceSpan> sequences, ConstAnyMatrixView g_y,
                               AnyMatrixView g_x, AnyMatrixView g_weight, VectorView<float> g_bias);

}  // namespace vernier::kernels
