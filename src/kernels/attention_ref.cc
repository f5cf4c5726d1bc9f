// Causal grouped-query attention, in double, one query row at a time.
#include <algorithm>
#include <cmath>

#include "kernels/reference.h"

namespace vernier::kernels::ref {

void causal_attention(const AttentionShape& shape, ConstMatrixView q, ConstMatrixView k,
                      ConstMatrixView v, int64_t first_position, MatrixView y) {
  const int64_t dim = shape.head_dim;
  for (int64_t t = 0; t < q.rows; ++t) {
    for (int64_t head = 0; head < shape.n_heads; ++head) {
      const int64_t kv = head / (shape.n_heads / shape.n_kv_heads) * dim;
      std::vector<double> weights;
      for (int64_t position = 0; position <= first_position + t; ++position) {
        double score = 0;
        for (int64_t i = 0; i < dim; ++i) {
          score += double{q.row(t)[head * dim + i]} * k.row(position)[kv + i];
        }
        weights.push_back(score / std::sqrt(static_cast<double>(dim)));
      }
      const double max = *std::max_element(weights.begin(), weights.end());
      double total = 0;
      for (double& weight : weights) total += weight = std::exp(weight - max);
      for (int64_t i = 0; i < dim; ++i) {
        double sum = 0;
        for (size_t p = 0; p < weights.size(); ++p) sum += weights[p] * v.row(p)[kv + i];
        y.row(t)[head * dim + i] = static_cast<float>(sum / total);
      }
    }
  }
}

}  // namespace vernier::kernels::ref
