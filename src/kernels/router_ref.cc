// The MoE router by sorting everything.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/reference.h"

namespace vernier::kernels::ref {
namespace {

// Indexes by falling score, ties by rising index.
std::vector<int32_t> ranking(std::span<const float> scores) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t left, int32_t right) { return scores[left] > scores[right]; });
  return order;
}

void mask_weak_groups(const RouterShape& shape, std::span<float> scores) {
  const int64_t size = shape.n_experts / shape.n_groups;
  std::vector<float> group_scores;
  for (int64_t group = 0; group < shape.n_groups; ++group) {
    const auto members = scores.subspan(group * size, size);
    const auto order = ranking(members);
    group_scores.push_back(size > 1 ? members[order[0]] + members[order[1]] : members[order[0]]);
  }
  const auto order = ranking(group_scores);
  for (int64_t rank = shape.top_groups; rank < shape.n_groups; ++rank) {
    const auto members = scores.subspan(order[rank] * size, size);
    std::fill(members.begin(), members.end(), -std::numeric_limits<float>::infinity());
  }
}

}  // namespace

Choice route(const RouterShape& shape, ConstMatrixView logits,
             std::span<const float> correction_bias) {
  Choice choice;
  for (int64_t t = 0; t < logits.rows; ++t) {
    std::vector<float> scores;
    std::vector<float> biased;
    for (int64_t e = 0; e < shape.n_experts; ++e) {
      scores.push_back(static_cast<float>(1 / (1 + std::exp(-double{logits.row(t)[e]}))));
      biased.push_back(scores.back() + correction_bias[e]);
    }
    mask_weak_groups(shape, biased);
    auto order = ranking(biased);
    order.resize(static_cast<size_t>(shape.top_k));
    std::sort(order.begin(), order.end());
    double sum = 1e-20;
    for (int64_t rank = 0; rank < shape.top_k; ++rank) sum += scores[order[rank]];
    for (int64_t rank = 0; rank < shape.top_k; ++rank) {
      const double weight = shape.normalize ? scores[order[rank]] / sum : scores[order[rank]];
      choice.experts.push_back(order[rank]);
      choice.weights.push_back(static_cast<float>(weight * shape.scale));
    }
  }
  return choice;
}

}  // namespace vernier::kernels::ref
