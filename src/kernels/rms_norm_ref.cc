// Root-mean-square norms, in double.
#include <cmath>

#include "kernels/reference.h"

namespace vernier::kernels::ref {
namespace {

double silu(double x) { return x / (1 + std::exp(-x)); }

}  // namespace

void rms_norm(ConstMatrixView x, std::span<const float> weight, float eps, MatrixView y) {
  for (int64_t t = 0; t < x.rows; ++t) {
    double sum = 0;
    for (const float value : x.row(t)) sum += double{value} * value;
    const double factor = 1 / std::sqrt(sum / static_cast<double>(x.cols) + eps);
    for (int64_t c = 0; c < x.cols; ++c) {
      y.row(t)[c] = static_cast<float>(weight[c] * x.row(t)[c] * factor);
    }
  }
}

void gated_group_norm(ConstMatrixView x, ConstMatrixView gate, std::span<const float> weight,
                      int64_t n_groups, float eps, MatrixView y) {
  const int64_t width = x.cols / n_groups;
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t first = 0; first < x.cols; first += width) {
      double sum = 0;
      std::vector<double> gated;
      for (int64_t c = first; c < first + width; ++c) {
        gated.push_back(x.row(t)[c] * silu(gate.row(t)[c]));
        sum += gated.back() * gated.back();
      }
      const double factor = 1 / std::sqrt(sum / static_cast<double>(width) + eps);
      for (int64_t c = 0; c < width; ++c) {
        y.row(t)[first + c] = static_cast<float>(weight[first + c] * gated[c] * factor);
      }
    }
  }
}

}  // namespace vernier::kernels::ref
