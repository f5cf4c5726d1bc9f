// Mamba-2's causal convolution: checks and dispatch.
#include "kernels/causal_conv.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace vernier::kernels {

void causal_conv_silu(ConstAnyMatrixView x, ConstAnyMatrixView weight, VectorView<const float> bias,
                      std::span<const ConvSequence> sequences, AnyMatrixView y) {
  VERNIER_CHECK(same_shape(x, y) && is_activation(x) && y.dtype == x.dtype);
  VERNIER_CHECK(x.rows == 0 || x.data != y.data);
  VERNIER_CHECK(weight.rows == x.cols && weight.cols > 0 && has_dtype(weight, DType::kF32));
  VERNIER_CHECK(bias.empty() || bias.size == x.cols);
  VERNIER_CHECK(same_place(y.device, {x.device, weight.device}));
  VERNIER_CHECK(all_within(sequences, x.rows));
  for (const ConvSequence& sequence : sequences) {
    VERNIER_CHECK(has_shape(sequence.history, weight.cols - 1, x.cols));
    VERNIER_CHECK(sequence.history.dtype == x.dtype && sequence.history.device == y.device);
  }
  if (y.device != nullptr) return cuda::causal_conv_silu(x, weight, bias, sequences, y);
  for (const auto& [first_row, n_rows, history] : sequences) {
    cpu::causal_conv_silu(x.row_range(first_row, n_rows).host(), weight.host(), bias.host(),
                          history.host(), y.row_range(first_row, n_rows).host());
  }
}

}  // namespace vernier::kernels
