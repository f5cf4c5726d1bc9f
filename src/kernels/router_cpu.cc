// The MoE router on the host: tokens in parallel. Selection keeps the best k in a sorted list,
// which for k well below the number of experts costs one comparison an expert.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
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
  std::sort(experts.begin(), experts.end());
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
  routing.experts = Vector<int32_t>(logits.rows * shape.top_k, nullptr);
  routing.weights = Vector<float>(logits.rows * shape.top_k, nullptr);
  const std::span<int32_t> experts = routing.experts.view().host();
  const std::span<float> weights = routing.weights.view().host();
#pragma omp parallel for schedule(static) if (logits.rows * logits.cols >= kMinParallelElems)
  for (int64_t t = 0; t < logits.rows; ++t) {
    thread_local Workspace work;
    const size_t first = static_cast<size_t>(t * shape.top_k);
    const size_t n = static_cast<size_t>(shape.top_k);
    route_token(shape, logits.row(t), correction_bias, work, experts.subspan(first, n),
                weights.subspan(first, n));
  }
  return routing;
}

// A counting sort.
ExpertGroups group_by_expert(const Routing& routing, int64_t n_experts) {
  const std::span<const int32_t> experts = routing.experts.view().host();
  ExpertGroups groups{.begin = std::vector<int64_t>(static_cast<size_t>(n_experts) + 1),
                      .tokens = Vector<int32_t>(routing.experts.size(), nullptr),
                      .places = Vector<int32_t>(routing.experts.size(), nullptr)};
  for (const int32_t expert : experts) ++groups.begin[static_cast<size_t>(expert) + 1];
  std::partial_sum(groups.begin.begin(), groups.begin.end(), groups.begin.begin());
  std::vector<int64_t> next = groups.begin;
  const std::span<int32_t> tokens = groups.tokens.view().host();
  const std::span<int32_t> places = groups.places.view().host();
  for (size_t pair = 0; pair < experts.size(); ++pair) {
    const int64_t place = next[static_cast<size_t>(experts[pair])]++;
    tokens[static_cast<size_t>(place)] =
        static_cast<int32_t>(static_cast<int64_t>(pair) / routing.top_k);
    places[pair] = static_cast<int32_t>(place);
  }
  return groups;
}

// A row of r is one thread's.
void combine_experts(ConstMatrixView outputs, int64_t first, const ExpertGroups& groups,
                     const Routing& routing, MatrixView r) {
  const std::span<const int32_t> places = groups.places.view().host();
  const std::span<const float> weights = routing.weights.view().host();
#pragma omp parallel for schedule(static) if (outputs.rows * outputs.cols >= kMinParallelElems)
  for (int64_t token = 0; token < r.rows; ++token) {
    float* to = r.row(token).data();
    for (int64_t pair = token * routing.top_k; pair < (token + 1) * routing.top_k; ++pair) {
      const int64_t row = places[static_cast<size_t>(pair)] - first;
      if (row < 0 || row >= outputs.rows) continue;
      const float* from = outputs.row(row).data();
      const float weight = weights[static_cast<size_t>(pair)];
      for (int64_t c = 0; c < r.cols; ++c) to[c] += weight * from[c];
    }
  }
}

}  // namespace vernier::kernels::cpu
