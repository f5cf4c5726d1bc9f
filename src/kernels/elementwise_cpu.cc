// Pointwise maps over activations on the host: bound by memory, so plain loops, rows in parallel.
#include <algorithm>
#include <cmath>

#include "kernels/cpu.h"

namespace vernier::kernels::cpu {
namespace {

// Calls body(row) for every row, in parallel where there is work enough.
template <class Body>
void for_each_row(int64_t n_rows, int64_t n_cols, Body body) {
#pragma omp parallel for schedule(static) if (n_rows * n_cols >= kMinParallelElems)
  for (int64_t row = 0; row < n_rows; ++row) body(row);
}

float softplus(float s) { return s > 20.0f ? s : std::log1p(std::exp(s)); }

}  // namespace

void squared_relu(MatrixView x) {
  for_each_row(x.rows, x.cols, [&](int64_t t) {
    float* row = x.row(t).data();
    for (int64_t c = 0; c < x.cols; ++c) {
      const float positive = row[c] < 0.0f ? 0.0f : row[c];  // NaN stays
      row[c] = positive * positive;
    }
  });
}

void softplus_dt(MatrixView dt, std::span<const float> bias, float low, float high) {
  for_each_row(dt.rows, dt.cols, [&](int64_t t) {
    float* row = dt.row(t).data();
    for (int64_t h = 0; h < dt.cols; ++h) {
      row[h] = std::clamp(softplus(row[h] + bias[h]), low, high);
    }
  });
}

void scatter_add_rows(ConstMatrixView x, std::span<const int32_t> rows,
                      std::span<const float> scale, MatrixView y) {
  for_each_row(x.rows, x.cols, [&](int64_t i) {
    const float* from = x.row(i).data();
    float* to = y.row(rows[i]).data();
    const float factor = scale[i];
    for (int64_t c = 0; c < x.cols; ++c) to[c] += factor * from[c];
  });
}

void gather_rows(ConstMatrixView x, std::span<const int32_t> rows, MatrixView y) {
  for_each_row(y.rows, y.cols,
               [&](int64_t i) { std::copy_n(x.row(rows[i]).data(), y.cols, y.row(i).data()); });
}

void add(ConstMatrixView x, MatrixView y) {
  for_each_row(x.rows, x.cols, [&](int64_t t) {
    const float* from = x.row(t).data();
    float* to = y.row(t).data();
    for (int64_t c = 0; c < x.cols; ++c) to[c] += from[c];
  });
}

}  // namespace vernier::kernels::cpu
