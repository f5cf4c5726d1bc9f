// How the host cuts a scan into work, in both directions, and the arithmetic of decays.
#pragma once

#include <algorithm>
#include <cmath>

#include "tensor/matrix.h"

namespace vernier::kernels::cpu {

inline constexpr int64_t kUnitHeads = 8;
// Longer chunks are cut: the products within a chunk grow with its square, half of them masked.
inline constexpr int64_t kMaxChunk = 64;

// exp(later - earlier), at most 1 also where rounding would make the exponent positive.
inline float decay_between(double later, double earlier) {
  return std::exp(std::min(0.0f, static_cast<float>(later - earlier)));
}

// out[t] = factor(t) * in[t]; out may be in.
template <class Factor>
void scale_rows(ConstMatrixView in, Factor factor, MatrixView out) {
  for (int64_t t = 0; t < in.rows; ++t) {
    const float scale = factor(t);
    const float* from = in.row(t).data();
    float* to = out.row(t).data();
    for (int64_t n = 0; n < in.cols; ++n) to[n] = scale * from[n];
  }
}

}  // namespace vernier::kernels::cpu
