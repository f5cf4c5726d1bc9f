// Made-up results of searches, for tests of reports.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "search/search_report.h"

namespace vernier::search {

// Groups of a network by a pattern of layers as configurations spell it: "M" Mamba, "E" experts,
// "*" attention, "-" MLP; then a head. Losses fall and rise with depth and differ by task and
// format about as those of real networks do.
class MadeUpScores {
 public:
  explicit MadeUpScores(std::string_view pattern, std::string_view candidates =
                                                      "fp8,nvfp4,"
                                                      "nvfp4_sweep,nvfp4_four_over_six") {
    scores.model = "made-up";
    scores.candidates = parse_candidates(candidates);
    scores.n_windows = 256;
    scores.window_tokens = 2048;
    depth_ = static_cast<double>(pattern.size());
    for (size_t layer = 0; layer < pattern.size(); ++layer) {
      add_layer(pattern[layer], static_cast<int>(layer));
    }
    add("head", "lm_head", -1, 131072 * kHidden, 4);
  }

  Scores scores;

 private:
  static constexpr int64_t kHidden = 2688;
  static constexpr int64_t kExperts = 128;
  static constexpr int64_t kExpertSize = 1856;

  void add_layer(char kind, int layer) {
    if (kind == 'M') {
      add("mamba", "in_proj", layer, kHidden * 10304, 1.5);
      add("mamba", "out_proj", layer, kHidden * 4096, 2.5);
    } else if (kind == '*') {
      add("attention", "qkv_proj", layer, kHidden * 4608, 1.2);
      add("attention", "o_proj", layer, kHidden * 4096, 0.8);
    } else if (kind == '-') {
      add("mlp", "up_proj", layer, kHidden * 4 * kHidden, 1);
      add("mlp", "down_proj", layer, kHidden * 4 * kHidden, 1.6);
    } else {
      add("routed experts", "experts", layer, 2 * kExperts * kHidden * kExpertSize, 2.2);
      add("moe", "shared_experts.up_proj", layer, 2 * kHidden * kExpertSize, 0.5);
      add("moe", "shared_experts.down_proj", layer, 2 * kHidden * kExpertSize, 0.9);
    }
  }

  // A number of (0, 1) that differs from call to call and is the same in every run.
  double noise() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (static_cast<double>(state_ >> 33) + 0.5) / 2147483648.0;
  }

  void add(std::string kind, const std::string& place, int layer, int64_t n_weights, double loss) {
    ScoredGroup group{
        .name = layer < 0 ? place : fmt::format("backbone.layers.{}.mixer.{}", layer, place),
        .layer = layer,
        .kind = std::move(kind),
        .is_routed = place == "experts",
        .modules = {},
        .shapes = {},
        .n_weights = n_weights};
    group.modules = {group.name};
    group.n_active_weights = group.is_routed ? n_weights * 6 / kExperts : n_weights;
    const double at = layer < 0 ? 1 : layer / depth_;
    const double trend = 1 + 4 * std::exp(-12 * at) + 2 * at * at;
    const double base = 2e-4 * loss * trend * std::exp(1.6 * (noise() - 0.5));
    for (const Candidate* candidate : scores.candidates) {
      const double nats = base * share_of(candidate->name) * std::exp(0.4 * (noise() - 0.5));
      group.scores.push_back(Score{.fisher = 0.3 * nats, .gauss_newton = nats});
    }
    scores.groups.push_back(std::move(group));
  }

  static double share_of(std::string_view candidate) {
    if (candidate == "fp8") return 0.02;
    if (candidate == "w4a16_nvfp4") return 0.45;
    return candidate == "nvfp4" ? 1 : 0.8;
  }

  double depth_ = 1;
  uint64_t state_ = 1;
};

// For every group the least of loss + price * bits.
inline Assignment cheapest(const Scores& scores, const Allocator& allocator, double price) {
  Assignment assignment;
  for (size_t group = 0; group < scores.groups.size(); ++group) {
    const auto cost = [&](const Candidate* candidate) {
      return allocator.score(group, candidate) + price * allocator.stored_bits(group, candidate);
    };
    const Candidate* best = allocator.options(group).front();
    for (const Candidate* option : allocator.options(group)) {
      if (cost(option) < cost(best)) best = option;
    }
    assignment.push_back(best);
  }
  return assignment;
}

// Every part that a report can have: a frontier, allocations with and without measurement,
// comparisons.
struct MadeUpReport {
  explicit MadeUpReport(std::string_view pattern)
      : made_up(pattern),
        allocator(made_up.scores, {}, ScoreKind::kGaussNewton, nullptr),
        report{.scores = made_up.scores, .allocator = allocator} {
    for (double price = 1e-10; price > 1e-18; price *= 0.97) {
      const Allocation point = allocator.describe(cheapest(made_up.scores, allocator, price));
      if (!report.frontier.empty() && report.frontier.back().bits == point.bits) continue;
      report.frontier.push_back({point.bits, point.predicted_kl});
    }
    for (const double bits : {4.75, 5.5, 6.5}) add_allocation(bits);
    report.allocations.back().measured_kl.reset();
    for (const Candidate* candidate : made_up.scores.candidates) {
      const Allocation uniform =
          allocator.describe(Assignment(made_up.scores.groups.size(), candidate));
      report.comparisons.push_back({fmt::format("{} everywhere", candidate->name), uniform.bits,
                                    uniform.predicted_kl, 1.3 * uniform.predicted_kl});
    }
    for (const ReportedAllocation& row : report.allocations) {
      if (!row.measured_kl) continue;
      report.comparisons.push_back(
          {row.budget, row.allocation.bits, row.allocation.predicted_kl, row.measured_kl->mean});
    }
  }
  MadeUpReport(const MadeUpReport&) = delete;

  // The largest of the cheapest assignments within the budget.
  void add_allocation(double bits) {
    for (double price = 1e-18;; price *= 1.02) {
      const Allocation allocation = allocator.describe(cheapest(made_up.scores, allocator, price));
      if (allocation.bits > bits) continue;
      const double kl = allocation.predicted_kl;
      report.allocations.push_back(
          {.budget = fmt::format("{} bits a weight", bits),
           .allocation = allocation,
           .measured_kl = eval::Estimate{1.2 * kl, 0.06 * kl},
           .n_swaps = 3,
           .recipe_file = fmt::format("searched/auto_{}_bits.yaml", bits)});
      return;
    }
  }

  MadeUpScores made_up;
  Allocator allocator;
  SearchReport report;
};

}  // namespace vernier::search
