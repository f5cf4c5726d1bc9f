// Gradients of the MoE router, in double.
#include <cmath>
#include <vector>

#include "kernels/reference.h"

namespace vernier::kernels::ref {

void combine_experts_backward(ConstMatrixView g_r, int64_t first, std::span<const int32_t> places,
                              std::span<const float> weights, ConstMatrixView outputs,
                              MatrixView g_outputs, std::span<float> g_weights) {
  const int64_t top_k = g_r.rows == 0 ? 1 : std::ssize(places) / g_r.rows;
  for (int64_t pair = 0; pair < std::ssize(places); ++pair) {
    const int64_t row = places[pair] - first;
    if (row < 0 || row >= outputs.rows) continue;
    const auto g = g_r.row(pair / top_k);
    double sum = 0;
    for (int64_t c = 0; c < outputs.cols; ++c) {
      sum += double{g[c]} * outputs.row(row)[c];
      g_outputs.row(row)[c] = static_cast<float>(double{weights[pair]} * g[c]);
    }
    g_weights[pair] = static_cast<float>(sum);
  }
}

void gather_rows_backward(ConstMatrixView g_y, std::span<const int32_t> tokens, MatrixView g_x) {
  std::vector<double> sums(static_cast<size_t>(g_x.rows * g_x.cols));
  for (int64_t row = 0; row < g_y.rows; ++row) {
    for (int64_t c = 0; c < g_y.cols; ++c) sums[tokens[row] * g_x.cols + c] += g_y.row(row)[c];
  }
  for (int64_t t = 0; t < g_x.rows; ++t) {
    for (int64_t c = 0; c < g_x.cols; ++c) {
      g_x.row(t)[c] = static_cast<float>(g_x.row(t)[c] + sums[t * g_x.cols + c]);
    }
  }
}

void route_backward(const RouterShape& shape, ConstMatrixView logits,
                    std::span<const int32_t> experts, std::span<const float> g_weights,
                    MatrixView g_logits) {
  for (int64_t t = 0; t < logits.rows; ++t) {
    for (float& value : g_logits.row(t)) value = 0;
    const auto chosen = experts.subspan(t * shape.top_k, shape.top_k);
    const auto g_w = g_weights.subspan(t * shape.top_k, shape.top_k);
    std::vector<double> s;
    double sum = 1e-20;
    double product = 0;
    for (int64_t rank = 0; rank < shape.top_k; ++rank) {
      s.push_back(1 / (1 + std::exp(-double{logits.row(t)[chosen[rank]]})));
      sum += s.back();
      product += g_w[rank] * s.back();
    }
    for (int64_t rank = 0; rank < shape.top_k; ++rank) {
      const double g_s = shape.normalize ? (g_w[rank] - product / sum) / sum : g_w[rank];
      g_logits.row(t)[chosen[rank]] =
          static_cast<float>(shape.scale * g_s * s[rank] * (1 - s[rank]));
    }
  }
}

}  // namespace vernier::kernels::ref
