// Mamba-2's causal convolution: checks and dispatch.
#include "kernels/causal_conv.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"

namespace vernier::kernels {

void causal_conv_silu(ConstMatrixView x, ConstMatrixView weight, std::span<const float> bias,
                      MatrixView history, MatrixView y) {
  VERNIER_CHECK(same_shape(x, y));
  VERNIER_CHECK(x.rows == 0 || x.data != y.data);
  VERNIER_CHECK(weight.rows == x.cols && weight.cols > 0);
  VERNIER_CHECK(bias.empty() || has_size(bias, x.cols));
  VERNIER_CHECK(has_shape(history, weight.cols - 1, x.cols));
  cpu::causal_conv_silu(x, weight, bias, history, y);
}

}  // namespace vernier::kernels
