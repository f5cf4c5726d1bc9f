// Gradient of the depthwise causal convolution, in double, a channel after another.
#include <cmath>
#include <vector>

#include "kernels/reference.h"

namespace vernier::kernels::ref {

void causal_conv_silu_backward(ConstMatrixView x, ConstMatrixView weight,
                               std::span<const float> bias, ConstMatrixView g_y, MatrixView g_x,
                               MatrixView g_weight, std::span<float> g_bias) {
  const int64_t n_taps = weight.cols;
  const auto input = [&](int64_t t, int64_t c) { return t < 0 ? 0.0 : double{x.row(t)[c]}; };
  for (int64_t c = 0; c < x.cols; ++c) {
    const auto w = weight.row(c);
    std::vector<double> g_x_sums(static_cast<size_t>(x.rows));
    std::vector<double> g_w_sums(static_cast<size_t>(n_taps));
    double g_b_sum = 0;
    for (int64_t t = 0; t < x.rows; ++t) {
      double p = bias.empty() ? 0 : bias[c];
      for (int64_t j = 0; j < n_taps; ++j) p += w[j] * input(t - n_taps + 1 + j, c);
      const double s = 1 / (1 + std::exp(-p));
      const double g_p = g_y.row(t)[c] * s * (1 + p * (1 - s));
      g_b_sum += g_p;
      for (int64_t j = 0; j < n_taps; ++j) {
        const int64_t source = t - n_taps + 1 + j;
        g_w_sums[j] += g_p * input(source, c);
        if (source >= 0) g_x_sums[source] += g_p * w[j];
      }
    }
    for (int64_t t = 0; t < x.rows; ++t) g_x.row(t)[c] = static_cast<float>(g_x_sums[t]);
    for (int64_t j = 0; j < g_weight.cols; ++j) {
      g_weight.row(c)[j] = static_cast<float>(g_weight.row(c)[j] + g_w_sums[j]);
    }
    if (!g_bias.empty()) g_bias[c] = static_cast<float>(g_bias[c] + g_b_sum);
  }
}

}  // namespace vernier::kernels::ref
