// Root-mean-square norms on the host: one pass for the sum of squares, one for the product, while
// the row is in the first-level cache. Rows in parallel.
#include <cmath>

#include "kernels/cpu.h"
#include "kernels/vec.h"

namespace vernier::kernels::cpu {
namespace {

// y = weight * x / rms(x). Error: the FP32 sum of squares, n/lanes roundings deep, and three
// products.
void normalize(const float* x, const float* weight, int64_t n, float eps, float* y) {
  const float mean = vec::sum_squares(x, n) / static_cast<float>(n);
  const float factor = 1.0f / std::sqrt(mean + eps);
  for (int64_t c = 0; c < n; ++c) y[c] = weight[c] * (x[c] * factor);
}

}  // namespace

void rms_norm(ConstMatrixView x, std::span<const float> weight, float eps, MatrixView y) {
#pragma omp parallel for schedule(static) if (x.rows * x.cols >= kMinParallelElems)
  for (int64_t t = 0; t < x.rows; ++t) {
    normalize(x.row(t).data(), weight.data(), x.cols, eps, y.row(t).data());
  }
}

void gated_group_norm(ConstMatrixView x, ConstMatrixView gate, std::span<const float> weight,
                      int64_t n_groups, float eps, MatrixView y) {
  const int64_t width = x.cols / n_groups;
#pragma omp parallel for schedule(static) if (x.rows * x.cols >= kMinParallelElems)
  for (int64_t t = 0; t < x.rows; ++t) {
    float* out = y.row(t).data();
    vec::multiply_silu(x.row(t).data(), gate.row(t).data(), out, x.cols);
    for (int64_t first = 0; first < x.cols; first += width) {
      normalize(out + first, weight.data() + first, width, eps, out + first);
    }
  }
}

}  // namespace vernier::kernels::cpu
