// Time of the exact knapsack for kinds of losses, budgets from scarce to ample.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "base/random.h"
#include "search/frontier.h"
#include "search/knapsack.h"

namespace vernier::search {
namespace {

constexpr size_t kGroups = 500;
constexpr size_t kChoices = 8;
constexpr double kLargest = 2e9;  // cost of a choice: 1e12 for all groups

class Dice {
 public:
  double uniform() { return random_uniform(7, 0, position_++); }

 private:
  uint64_t position_ = 0;
};

Choice choice(double loss, double cost) {
  return {"", std::floor(loss), {static_cast<int64_t>(cost)}};
}

Group uncorrelated(Dice& dice) {
  Group group;
  for (size_t place = 0; place < kChoices; ++place) {
    group.push_back(choice(dice.uniform() * kLargest, dice.uniform() * kLargest));
  }
  return group;
}

// A choice saves what it costs, within a tenth of the largest cost.
Group weakly_correlated(Dice& dice) {
  Group group;
  for (size_t place = 0; place < kChoices; ++place) {
    const double cost = dice.uniform() * kLargest;
    group.push_back(choice((1.1 + 0.2 * dice.uniform()) * kLargest - cost, cost));
  }
  return group;
}

// Every further choice saves what it costs and a constant; costs in units of 2^20.
Group strongly_correlated(Dice& dice) {
  constexpr double kUnit = 0x1p20;
  const double step = kLargest / kUnit / kChoices;
  double cost = 0;
  Group group;
  for (size_t place = 0; place < kChoices; ++place) {
    cost += std::ceil(dice.uniform() * step);
    const double saved = cost + static_cast<double>(place) * step / 10;
    group.push_back(choice((2 * kLargest / kUnit - saved) * kUnit, cost * kUnit));
  }
  return group;
}

// Losses fall by 1.7 bits for every bit, within a third, with two candidates of one size; sizes of
// groups spread over four orders of magnitude.
Group realistic(Dice& dice) {
  constexpr std::array<double, kChoices> kBits{2, 3, 4, 4.5, 4.5, 6, 8, 16};
  const double size = std::floor(std::exp2(10 + 14 * dice.uniform())) * 16;
  const double sensitivity =
      size * std::exp(2 * (dice.uniform() + dice.uniform() + dice.uniform() - 1.5));
  Group group;
  for (const double bits : kBits) {
    const double loss = sensitivity * std::exp2(-1.7 * bits) * (0.7 + 0.6 * dice.uniform());
    group.push_back({"", loss, {static_cast<int64_t>(size * bits)}});
  }
  return group;
}

// `percent` of the way from the least to the largest sum of costs.
Problem problem_of(Group (*make)(Dice&), int64_t percent) {
  Dice dice;
  Problem problem{{}, {0}};
  double budget = 0;
  for (size_t group = 0; group < kGroups; ++group) {
    problem.groups.push_back(make(dice));
    const auto [least, most] =
        std::minmax_element(problem.groups.back().begin(), problem.groups.back().end(),
                            [](const Choice& a, const Choice& b) { return a.cost[0] < b.cost[0]; });
    budget +=
        static_cast<double>(least->cost[0]) +
        static_cast<double>(most->cost[0] - least->cost[0]) * static_cast<double>(percent) / 100;
  }
  problem.budgets[0] = static_cast<int64_t>(budget);
  return problem;
}

void solve_kind(benchmark::State& state, Group (*make)(Dice&)) {
  const Problem problem = problem_of(make, state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(solve(problem));
}

void hull_of_kind(benchmark::State& state, Group (*make)(Dice&)) {
  const Problem problem = problem_of(make, 0);
  for (auto _ : state) benchmark::DoNotOptimize(hull(problem.groups));
}

void budgets(benchmark::internal::Benchmark* bench) {
  bench->Unit(benchmark::kMillisecond)->ArgName("percent")->Arg(5)->Arg(20)->Arg(50)->Arg(80);
}

BENCHMARK_CAPTURE(solve_kind, uncorrelated, uncorrelated)
    ->Name("solve/500x8/uncorrelated")
    ->Apply(budgets);
BENCHMARK_CAPTURE(solve_kind, weakly_correlated, weakly_correlated)
    ->Name("solve/500x8/weakly_correlated")
    ->Apply(budgets);
BENCHMARK_CAPTURE(solve_kind, strongly_correlated, strongly_correlated)
    ->Name("solve/500x8/strongly_correlated")
    ->Apply(budgets);
BENCHMARK_CAPTURE(solve_kind, realistic, realistic)->Name("solve/500x8/realistic")->Apply(budgets);
BENCHMARK_CAPTURE(hull_of_kind, realistic, realistic)
    ->Name("hull/500x8/realistic")
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace vernier::search
