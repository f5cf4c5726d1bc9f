// Pointwise maps over activations on the host: bound by memory, so plain loops, rows in parallel.
#include <algorithm>
#include <bit>
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
    for (int64_t c = 0; c < x.cols; ++c) row[c] = formats::squared_relu(row[c]);
  });
}

void softplus_dt(ConstMatrixView raw, std::span<const float> bias, float low, float high,
                 MatrixView dt) {
  for_each_row(dt.rows, dt.cols, [&](int64_t t) {
    const float* from = raw.row(t).data();
    float* to = dt.row(t).data();
    for (int64_t h = 0; h < dt.cols; ++h) {
      to[h] = std::clamp(softplus(from[h] + bias[h]), low, high);
    }
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

// Magnitudes of floats order as their bit patterns do, and NaN and infinity are the largest of all.
float larger_amax(float amax, ConstMatrixView x) {
  uint32_t largest = std::bit_cast<uint32_t>(amax);
#pragma omp parallel for reduction(max : largest) schedule(static)
  for (int64_t row = 0; row < x.rows; ++row) {
    uint32_t row_largest = 0;
    for (float value : x.row(row)) {
      row_largest = std::max(row_largest, std::bit_cast<uint32_t>(value) & 0x7FFFFFFFu);
    }
    largest = std::max(largest, row_largest);
  }
  return std::bit_cast<float>(largest);
}

void round_input(const formats::Format& format, float scale, MatrixView x) {
  constexpr int64_t kRowsAtOnce = 16;
  const int64_t n_blocks = (x.rows + kRowsAtOnce - 1) / kRowsAtOnce;
#pragma omp parallel for schedule(static) if (n_blocks > 1)
  for (int64_t block = 0; block < n_blocks; ++block) {
    const int64_t first = block * kRowsAtOnce;
    format.round_input(x.row_range(first, std::min(kRowsAtOnce, x.rows - first)), scale);
  }
}

}  // namespace vernier::kernels::cpu
