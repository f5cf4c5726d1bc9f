// Mamba-2's depthwise causal convolution with its SiLU, carrying the last taps between calls.
#pragma once

#include <span>

#include "tensor/any_matrix.h"

namespace vernier::kernels {

// Rows [first_row, first_row + n_rows) are a sequence's next tokens. history: [taps - 1, channels],
// of x's type: the inputs before this call, oldest first; overwritten with the last taps - 1 inputs
// (zeros: start of a sequence).
struct ConvSequence {
  int64_t first_row;
  int64_t n_rows;
  AnyMatrixView history;
};

// y[t, c] = silu(bias[c] + sum_j weight[c, j] * x[t - taps + 1 + j, c]); the last tap multiplies
// the current token, tokens before the first come from the history.
//   x, y: [tokens, channels], of one type (device: BF16 or FP32), distinct. weight: FP32 [channels,
//   taps]. bias: [channels] or empty. FP32 arithmetic.
void causal_conv_silu(ConstAnyMatrixView x, ConstAnyMatrixView weight, VectorView<const float> bias,
                      std::span<const ConvSequence> sequences, AnyMatrixView y);

}  // namespace vernier::kernels
