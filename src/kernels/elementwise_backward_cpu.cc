// Gradients of pointwise maps on the host: plain loops, tiles of rows in parallel.
#include <cmath>

#include "kernels/cpu.h"
#include "kernels/row_tiles.h"
#include "kernels/sigmoid.h"

namespace vernier::kernels::cpu {

void squared_relu_backward(ConstMatrixView x, MatrixView g) {
  sum_over_rows(x.rows, x.cols, {}, [&](int64_t t, float*) {
    const float* from = x.row(t).data();
    float* to = g.row(t).data();
    for (int64_t c = 0; c < x.cols; ++c) {
      const float positive = from[c] < 0.0f ? 0.0f : from[c];  // NaN stays
      to[c] *= 2.0f * positive;
    }
  });
}

void softplus_dt_backward(ConstMatrixView raw, std::span<const float> bias, float low, float high,
                          ConstMatrixView g_dt, MatrixView g_raw, std::span<float> g_bias) {
  sum_over_rows(raw.rows, raw.cols, g_bias, [&](int64_t t, float* bias_sums) {
    const float* from = raw.row(t).data();
    const float* g = g_dt.row(t).data();
    float* to = g_raw.row(t).data();
    for (int64_t h = 0; h < raw.cols; ++h) {
      const float s = from[h] + bias[h];
      const float softplus = s > 20.0f ? s : std::log1p(std::exp(s));
      const float slope = s > 20.0f ? 1.0f : sigmoid_of(s).value;
      const float gradient = softplus < low || high < softplus ? 0.0f : g[h] * slope;
      to[h] = gradient;
      if (bias_sums != nullptr) bias_sums[h] += gradient;
    }
  });
}

}  // namespace vernier::kernels::cpu
