// For tests only: small random knapsacks and all ways to choose.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/random.h"
#include "search/knapsack.h"

namespace vernier::search {

class Dice {
 public:
  explicit Dice(uint32_t stream) : stream_(stream) {}
  // From 0 to `sides` - 1.
  int64_t roll(int64_t sides) {
    return static_cast<int64_t>(random_uniform(20, stream_, position_++) *
                                static_cast<double>(sides));
  }

 private:
  uint32_t stream_;
  uint64_t position_ = 0;
};

// Up to 6 groups of up to 5 choices; sums of losses are exact. By the seed, losses and costs have
// few values (many ties), many, or losses that follow costs; names repeat or not.
inline Problem random_problem(uint32_t seed, size_t n_constraints) {
  Dice dice(seed * 8 + static_cast<uint32_t>(n_constraints));
  const int64_t n_losses = std::vector<int64_t>{2, 5, 1000, 1 << 30}[seed % 4];
  const int64_t n_costs = std::vector<int64_t>{1, 3, 8, 1000, 1 << 20}[seed % 5];
  const bool follows_cost = seed % 3 == 0;
  Problem problem;
  std::vector<int64_t> most(n_constraints, 1);
  const int64_t n_groups = 1 + dice.roll(6);
  for (int64_t group = 0; group < n_groups; ++group) {
    Group& choices = problem.groups.emplace_back();
    const int64_t scale = seed % 7 == 0 ? int64_t{1} << dice.roll(12) : 1;
    const int64_t n_choices = 1 + dice.roll(5);
    for (int64_t place = 0; place < n_choices; ++place) {
      Choice choice{.name = std::string(1, static_cast<char>('a' + dice.roll(6)))};
      for (size_t k = 0; k < n_constraints; ++k) choice.cost.push_back(scale * dice.roll(n_costs));
      int64_t loss = scale * dice.roll(n_losses);
      if (follows_cost) loss = scale * (n_costs + dice.roll(2)) - choice.cost[0];
      choice.loss = static_cast<double>(loss - 3) / 64;
      choices.push_back(choice);
    }
    for (size_t k = 0; k < n_constraints; ++k) {
      int64_t largest = 0;
      for (const Choice& choice : choices) largest = std::max(largest, choice.cost[k]);
      most[k] += largest;
    }
  }
  for (const int64_t cost : most) problem.budgets.push_back(dice.roll(cost + 1));
  return problem;
}

template <class Visit>
void for_every_solution(const std::vector<Group>& groups, size_t n_constraints, Visit&& visit) {
  std::vector<int> chosen(groups.size(), 0);
  for (;;) {
    Solution solution{chosen, 0, std::vector<int64_t>(n_constraints, 0)};
    for (size_t group = 0; group < groups.size(); ++group) {
      const Choice& choice = groups[group][static_cast<size_t>(chosen[group])];
      solution.loss += choice.loss;
      for (size_t k = 0; k < n_constraints; ++k) solution.cost[k] += choice.cost[k];
    }
    visit(solution);
    size_t group = 0;
    while (group < groups.size() && ++chosen[group] == static_cast<int>(groups[group].size())) {
      chosen[group++] = 0;
    }
    if (group == groups.size()) return;
  }
}

}  // namespace vernier::search
