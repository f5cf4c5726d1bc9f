// Pointwise maps over activations, in double.
#include <algorithm>
#include <cmath>

#include "kernels/reference.h"

namespace vernier::kernels::ref {

void squared_relu(MatrixView x) {
  for (int64_t t = 0; t < x.rows; ++t) {
    for (float& value : x.row(t)) {
      const double positive = value < 0 ? 0 : value;  // NaN stays
      value = static_cast<float>(positive * positive);
    }
  }
}

void softplus_dt(ConstMatrixView raw, std::span<const float> bias, float low, float high,
                 MatrixView dt) {
  for (int64_t t = 0; t < dt.rows; ++t) {
    for (int64_t h = 0; h < dt.cols; ++h) {
      const double s = double{raw.row(t)[h]} + bias[h];
      const double softplus = s > 20 ? s : std::log1p(std::exp(s));
      dt.row(t)[h] = std::clamp(static_cast<float>(softplus), low, high);
    }
  }
}

void gather_rows(ConstMatrixView x, std::span<const int32_t> rows, MatrixView y) {
  for (int64_t i = 0; i < y.rows; ++i) {
    for (int64_t c = 0; c < y.cols; ++c) y.row(i)[c] = x.row(rows[i])[c];
  }
}

void add(ConstMatrixView x, MatrixView y) {
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t c = 0; c < x.cols; ++c) y.row(t)[c] += x.row(t)[c];
  }
}

}  // namespace vernier::kernels::ref
