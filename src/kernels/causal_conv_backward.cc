// Gradient of Mamba-2's causal convolution: checks and dispatch.
#include "kernels/causal_conv_backward.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace vernier::kernels {

void causal_conv_silu_backward(ConstAnyMatrixView x, ConstAnyMatrixView weight,
                               VectorView<const float> bias,
                               std::span<const SequenceSpan> sequences, ConstAnyMatrixView g_y,
                               AnyMatrixView g_x, AnyMatrixView g_weight,
                               VectorView<float> g_bias) {
  VERNIER_CHECK(same_shape(x, g_y) && same_shape(x, g_x) && is_activation(x));
  VERNIER_CHECK(g_y.dtype == x.dtype && g_x.dtype == x.dtype);
  VERNIER_CHECK(x.rows == 0 || (g_x.data != x.data && g_x.data != g_y.data));
  VERNIER_CHECK(weight.rows == x.cols && weight.cols > 0 && has_dtype(weight, DType::kF32));
  VERNIER_CHECK(bias.empty() || bias.size == x.cols);
  VERNIER_CHECK(same_place(x.device, {weight.device, g_y.device, g_x.device}));
  VERNIER_CHECK(bias.empty() || bias.device == x.device);
  if (g_weight.data != nullptr) {
    VERNIER_CHECK(same_shape(g_weight, weight) && has_dtype(g_weight, DType::kF32));
    VERNIER_CHECK(g_weight.device == x.device);
  }
  VERNIER_CHECK(g_bias.empty() || (g_bias.size == x.cols && g_bias.device == x.device));
  VERNIER_CHECK(all_within(sequences, x.rows));
  if (x.device != nullptr) {
    return cuda::causal_conv_silu_backward(x, weight, bias, sequences, g_y, g_x, g_weight, g_bias);
  }
  for (const auto& [first_row, n_rows] : sequences) {
    cpu::causal_conv_silu_backward(x.row_range(first_row, n_rows).host(), weight.host(),
                                   bias.host(), g_y.row_range(first_row, n_rows).host(),
                                   g_x.row_range(first_row, n_rows).host(), g_weight.host(),
                                   g_bias.host());
  }
}

}  // namespace vernier::kernels
