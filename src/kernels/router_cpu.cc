// The MoE router on the host: tokens in parallel. Selection keeps the best k in a sorted list,
// which for k well below the number of experts costs one comparison an expert.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu.h"

namespace vernier::kernels::cpu {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// Writes the indexes of the largest scores, best first, ties to the lower index. REQUIRES: no NaN.
void select_top(std::span<const float> scores, std::span<int32_t> top) {
  size_t n_found = 0;
  for (size_t index = 0; index < scores.size(); ++index) {
    const bool is_full = n_found == top.size();
    if (is_full && !(scores[index] > scores[top.back()])) continue;
    size_t slot = is_full ? n_found - 1 : n_found++;
    for (; slot > 0 && scores[index] > scores[top[slot - 1]]; --slot) top[slot] = top[slot - 1];
    top[slot] = static_cast<int32_t>(index);
  }
}

// One thread's workspace.
struct Workspace {
  std::vector<float> scores;  // sigmoid(logits)
  std::vector<float> biased;  // what the choice is made by
  std::vector<float> group_scores;
  std::vector<int32_t> groups;
};

float group_score(std::span<const float> members) {
  float best = kLowest;
  float second = kLowest;
  for (const float score : members) {
    second = std::max(second, std::min(best, score));
    best = std::max(best, score);
  }
  return members.size() > 1 ? best + second : best;
}

void mask_weak_groups(const RouterShape& shape, Workspace& work) {
  const int64_t size = shape.n_experts / shape.n_groups;
  work.group_scores.resize(shape.n_groups);
  work.groups.resize(shape.n_groups);
  const std::span<float> biased(work.biased);
  for (int64_t group = 0; group < shape.n_groups; ++group) {
    work.group_scores[group] = group_score(biased.subspan(group * size, size));
  }
  select_top(work.group_scores, work.groups);
  for (int64_t rank = shape.top_groups; rank < shape.n_groups; ++rank) {
    const auto members = biased.subspan(work.groups[rank] * size, size);
    std::fill(members.begin(), members.end(), kLowest);
  }
}

void route_token(const RouterShape& shape, std::span<const float> logits,
                 std::span<const float> correction_bias, Workspace& work,
                 std::span<int32_t> experts, std::span<float> weights) {
  work.scores.resize(shape.n_experts);
  work.biased.resize(shape.n_experts);
  for (int64_t expert = 0; expert < shape.n_experts; ++expert) {
    const float score = 1.0f / (1.0f + std::exp(-logits[expert]));
    const float biased = score + correction_bias[expert];
    work.scores[expert] = score;
    work.biased[expert] = std::isnan(biased) ? kLowest : biased;  // chosen last, its weight NaN
  }
  if (shape.top_groups < shape.n_groups) mask_weak_groups(shape, work);
  select_top(work.biased, experts);
  float sum = 1e-20f;
  for (const int32_t expert : experts) sum += work.scores[expert];
  const float factor = shape.normalize ? shape.scale / sum : shape.scale;
  for (size_t rank = 0; rank < experts.size(); ++rank) {
    weights[rank] = work.scores[experts[rank]] * factor;
  }
}

}  // namespace

Routing route(const RouterShape& shape, ConstMatrixView logits,
              std::span<const float> correction_bias) {
  Routing routing;
  routing.top_k = shape.top_k;
  routing.experts.resize(static_cast<size_t>(logits.rows * shape.top_k));
  routing.weights.resize(routing.experts.size());
#pragma omp parallel for schedule(static) if (logits.rows * logits.cols >= kMinParallelElems)
  for (int64_t t = 0; t < logits.rows; ++t) {
    thread_local Workspace work;
    const size_t first = static_cast<size_t>(t * shape.top_k);
    const size_t n = static_cast<size_t>(shape.top_k);
    route_token(shape, logits.row(t), correction_bias, work,
                std::span(routing.experts).subspan(first, n),
                std::span(routing.weights).subspan(first, n));
  }
  return routing;
}

}  // namespace vernier::kernels::cpu
