// Gradients of causal grouped-query attention, in double, one query row at a time.
#include <algorithm>
#include <cmath>

#include "kernels/reference.h"

namespace vernier::kernels::ref {
namespace {

double dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{a[i]} * b[i];
  return sum;
}

void add_scaled(double factor, const float* from, int64_t n, double* to) {
  for (int64_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

void store(const std::vector<double>& from, MatrixView to) {
  for (int64_t t = 0; t < to.rows; ++t) {
    for (int64_t i = 0; i < to.cols; ++i) {
      to.row(t)[i] = static_cast<float>(from[t * to.cols + i]);
    }
  }
}

// One sequence, one query head; all [tokens, head_dim]. Adds to g_k and g_v.
void add_head(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, ConstMatrixView y,
              ConstMatrixView g_y, MatrixView g_q, std::vector<double>& g_k,
              std::vector<double>& g_v) {
  const int64_t dim = q.cols;
  const double scale = 1 / std::sqrt(static_cast<double>(dim));
  std::vector<double> row_gradient(q.rows * dim);
  for (int64_t t = 0; t < q.rows; ++t) {
    std::vector<double> weights;
    for (int64_t p = 0; p <= t; ++p) {
      weights.push_back(dot(q.row(t).data(), k.row(p).data(), dim) * scale);
    }
    const double max = *std::max_element(weights.begin(), weights.end());
    double total = 0;
    for (double& weight : weights) total += weight = std::exp(weight - max);
    const double mean = dot(g_y.row(t).data(), y.row(t).data(), dim);
    for (int64_t p = 0; p <= t; ++p) {
      const double weight = weights[p] / total;
      const double g_weight = dot(g_y.row(t).data(), v.row(p).data(), dim);
      const double g_score = weight * (g_weight - mean) * scale;
      add_scaled(g_score, k.row(p).data(), dim, &row_gradient[t * dim]);
      add_scaled(g_score, q.row(t).data(), dim, &g_k[p * dim]);
      add_scaled(weight, g_y.row(t).data(), dim, &g_v[p * dim]);
    }
  }
  store(row_gradient, g_q);
}

}  // namespace

void causal_attention_backward(const AttentionBackward& op,
                               std::span<const SequenceSpan> sequences) {
  const int64_t dim = op.shape.head_dim;
  const int64_t heads_per_kv = op.shape.n_heads / op.shape.n_kv_heads;
  for (const auto& [first_row, n_rows] : sequences) {
    for (int64_t kv_head = 0; kv_head < op.shape.n_kv_heads; ++kv_head) {
      const auto part = [&](auto matrix, int64_t head) {
        return matrix.row_range(first_row, n_rows).col_range(head * dim, dim).host();
      };
      std::vector<double> g_k(n_rows * dim);
      std::vector<double> g_v(n_rows * dim);
      for (int64_t head = kv_head * heads_per_kv; head < (kv_head + 1) * heads_per_kv; ++head) {
        add_head(part(op.q, head), part(op.k, kv_head), part(op.v, kv_head), part(op.y, head),
                 part(op.g_y, head), part(op.g_q, head), g_k, g_v);
      }
      store(g_k, part(op.g_k, kv_head));
      store(g_v, part(op.g_v, kv_head));
    }
  }
}

}  // namespace vernier::kernels::ref
