// Gradients of root-mean-square norms, in double.
#include <cmath>
#include <vector>

#include "kernels/reference.h"

namespace vernier::kernels::ref {
namespace {

struct UnitGradient {
  std::vector<double> input;   // r (g - n mean(g n))
  std::vector<double> weight;  // g_y n
};

// Of one unit that is normalized on its own.
UnitGradient unit_gradient(const std::vector<double>& q, const float* weight, const float* g_y,
                           double eps) {
  const double n = static_cast<double>(q.size());
  double squares = 0;
  double product = 0;
  for (size_t c = 0; c < q.size(); ++c) {
    squares += q[c] * q[c];
    product += double{weight[c]} * g_y[c] * q[c];
  }
  const double r = 1 / std::sqrt(squares / n + eps);
  UnitGradient gradient;
  for (size_t c = 0; c < q.size(); ++c) {
    gradient.input.push_back(r * (double{weight[c]} * g_y[c] - q[c] * r * r * product / n));
    gradient.weight.push_back(g_y[c] * q[c] * r);
  }
  return gradient;
}

void add(const std::vector<double>& from, std::span<float> to) {
  for (size_t i = 0; i < to.size(); ++i) to[i] = static_cast<float>(to[i] + from[i]);
}

}  // namespace

void rms_norm_backward(ConstMatrixView x, std::span<const float> weight, float eps,
                       ConstMatrixView g_y, MatrixView g_x, std::span<float> g_weight) {
  std::vector<double> sums(g_weight.size());
  for (int64_t t = 0; t < x.rows; ++t) {
    const std::vector<double> q(x.row(t).begin(), x.row(t).end());
    const UnitGradient gradient = unit_gradient(q, weight.data(), g_y.row(t).data(), eps);
    add(gradient.input, g_x.row(t));
    for (size_t c = 0; c < sums.size(); ++c) sums[c] += gradient.weight[c];
  }
  add(sums, g_weight);
}

void gated_group_norm_backward(ConstMatrixView x, ConstMatrixView gate,
                               std::span<const float> weight, int64_t n_groups, float eps,
                               ConstMatrixView g_y, MatrixView g_x, MatrixView g_gate,
                               std::span<float> g_weight) {
  const int64_t width = x.cols / n_groups;
  std::vector<double> sums(g_weight.size());
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t first = 0; first < x.cols; first += width) {
      std::vector<double> q, to_x, to_gate;
      for (int64_t c = first; c < first + width; ++c) {
        const double value = x.row(t)[c];
        const double z = gate.row(t)[c];
        const double s = 1 / (1 + std::exp(-z));
        q.push_back(value * z * s);
        to_x.push_back(z * s);
        to_gate.push_back(value * s * (1 + z * (1 - s)));
      }
      const UnitGradient gradient =
          unit_gradient(q, weight.data() + first, g_y.row(t).data() + first, eps);
      for (int64_t c = 0; c < width; ++c) {
        g_x.row(t)[first + c] = static_cast<float>(gradient.input[c] * to_x[c]);
        g_gate.row(t)[first + c] = static_cast<float>(gradient.input[c] * to_gate[c]);
        if (!sums.empty()) sums[first + c] += gradient.weight[c];
      }
    }
  }
  add(sums, g_weight);
}

}  // namespace vernier::kernels::ref
