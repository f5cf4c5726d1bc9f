// Depthwise causal convolution, in double, over history and input laid end to end.
#include <cmath>

#include "kernels/reference.h"

namespace vernier::kernels::ref {

void causal_conv_silu(ConstMatrixView x, ConstMatrixView weight, std::span<const float> bias,
                      MatrixView history, MatrixView y) {
  const int64_t n_history = history.rows;
  Matrix all(n_history + x.rows, x.cols);
  for (int64_t t = 0; t < all.rows(); ++t) {
    const auto from = t < n_history ? ConstMatrixView(history).row(t) : x.row(t - n_history);
    for (int64_t c = 0; c < x.cols; ++c) all.view().row(t)[c] = from[c];
  }
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t c = 0; c < x.cols; ++c) {
      double sum = bias.empty() ? 0 : bias[c];
      for (int64_t j = 0; j < weight.cols; ++j) {
        sum += double{weight.row(c)[j]} * all.view().row(t + j)[c];
      }
      y.row(t)[c] = static_cast<float>(sum / (1 + std::exp(-sum)));
    }
  }
  for (int64_t t = 0; t < n_history; ++t) {
    for (int64_t c = 0; c < x.cols; ++c) history.row(t)[c] = all.view().row(x.rows + t)[c];
  }
}

}  // namespace vernier::kernels::ref
