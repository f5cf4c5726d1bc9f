// Gradients of pointwise maps, in double.
#include <cmath>
#include <vector>

#include "kernels/reference.h"

namespace vernier::kernels::ref {

void squared_relu_backward(ConstMatrixView x, MatrixView g) {
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t c = 0; c < x.cols; ++c) {
      const double positive = x.row(t)[c] < 0 ? 0 : x.row(t)[c];  // NaN stays
      g.row(t)[c] = static_cast<float>(2 * positive * g.row(t)[c]);
    }
  }
}

void softplus_dt_backward(ConstMatrixView raw, std::span<const float> bias, float low, float high,
                          ConstMatrixView g_dt, MatrixView g_raw, std::span<float> g_bias) {
  std::vector<double> sums(g_bias.size());
  for (int64_t t = 0; t < raw.rows; ++t) {
    for (int64_t h = 0; h < raw.cols; ++h) {
      const double s = double{raw.row(t)[h]} + bias[h];
      const double softplus = s > 20 ? s : std::log1p(std::exp(s));
      const double slope = s > 20 ? 1 : 1 / (1 + std::exp(-s));
      const bool is_clamped = softplus < low || high < softplus;  // NaN is not
      const double gradient = is_clamped ? 0 : slope * g_dt.row(t)[h];
      g_raw.row(t)[h] = static_cast<float>(gradient);
      if (!sums.empty()) sums[h] += gradient;
    }
  }
  for (size_t h = 0; h < sums.size(); ++h) g_bias[h] = static_cast<float>(g_bias[h] + sums[h]);
}

}  // namespace vernier::kernels::ref
