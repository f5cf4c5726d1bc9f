// Mamba-2's depthwise causal convolution with its SiLU, carrying the last taps between calls.
#pragma once

#include <span>

#include "tensor/matrix.h"

namespace vernier::kernels {

// y[t, c] = silu(bias[c] + sum_j weight[c, j] * x[t - taps + 1 + j, c]); the last tap multiplies
// the current token, tokens before the first come from `history`.
//   x, y: [tokens, channels], distinct. weight: [channels, taps]. bias: [channels] or empty.
//   history: [taps - 1, channels], the inputs before this call, oldest first; overwritten with the
//   last taps - 1 inputs (zeros: start of a sequence).
void causal_conv_silu(ConstMatrixView x, ConstMatrixView weight, std::span<const float> bias,
                      MatrixView history, MatrixView y);

}  // namespace vernier::kernels
