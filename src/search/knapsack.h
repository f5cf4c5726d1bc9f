// The multiple-choice knapsack: one choice for every group, so that the sum of losses is least and
// every sum of costs stays within its budget. Exact, deterministic, without a tolerance.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace vernier::search {

struct Choice {
  std::string name;
  double loss = 0;            // finite
  std::vector<int64_t> cost;  // one per constraint, not negative
};
using Group = std::vector<Choice>;

struct Problem {
  std::vector<Group> groups;
  std::vector<int64_t> budgets;  // one per constraint
};

struct Solution {
  std::vector<int> chosen;    // the place of each group's choice
  double loss = 0;            // summed in the order of the groups
  std::vector<int64_t> cost;  // sums, one per constraint
};

inline constexpr size_t kMaxConstraints = 4;
inline constexpr size_t kMaxStates = size_t{1} << 23;

// The best solution, nullopt where no solution keeps every budget.
//
// What exact means: sums of doubles depend on their order, so every loss is first rounded to a
// multiple of one unit, a power of two, at most 2^-59 of S, the sum over groups of their largest
// absolute loss. A sum in doubles is no finer (2^-53 of itself at each addition). Integers are
// not rounded as long as S is below 2^60. From there on all arithmetic is in integers, and the
// solution is the least of all that keep the budgets by, in this order: sum of losses, sum of costs
// of the first constraint, of the next ones, names of the choices in the order of the groups (of
// choices of a group with one name the first one comes first).
//
// Throws InvalidArgument for a group without choices, a loss that is not finite, a negative cost,
// largest costs that sum to 2^60 or more.
//
// The problem is NP-hard. 500 groups of 8 with one constraint take milliseconds where losses are
// measured or random, tens of milliseconds where they are nearly proportional to costs, up to
// seconds where they are an exact function of costs (search_bench.cc): then nearly every sum of
// costs is a state of its own, and it helps to count costs in a large unit. 60 groups of 5 with two
// constraints take up to seconds. After `max_states` it throws Unsupported rather than return less
// than the best; the default takes at most about two gigabytes of memory.
// REQUIRES: 1 to kMaxConstraints budgets, as many costs for every choice.
std::optional<Solution> solve(const Problem& problem, size_t max_states = kMaxStates);

// The best solution for each of several budgets of one constraint.
std::vector<std::optional<Solution>> solve_all(const std::vector<Group>& groups,
                                               std::span<const int64_t> budgets);

// The least sum of costs of a constraint: with a smaller budget there is no solution.
int64_t least_cost(const std::vector<Group>& groups, size_t constraint);

}  // namespace vernier::search
