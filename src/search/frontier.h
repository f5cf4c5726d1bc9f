// What every budget of one constraint would buy: the solutions that no other one beats in both loss
// and cost.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "search/knapsack.h"

namespace vernier::search {

struct Frontier {
  // Whether `points` are all solutions that no other one beats, or only some of these.
  bool is_whole = false;
  // By rising cost and falling loss; of solutions with equal losses and costs the one that solve()
  // returns.
  std::vector<Solution> points;
};

// The whole frontier where no more than `max_points` ways remain after any of the groups. There may
// be as many as the product of all numbers of choices; beyond `max_points` the points are those of
// hull() and the best solutions for `budgets`, all of which belong to the frontier.
// Throws as solve(). REQUIRES: one cost for every choice, groups * max_points below 2^31.
Frontier frontier(const std::vector<Group>& groups, std::span<const int64_t> budgets,
                  size_t max_points);

// The corners of the frontier's lower convex hull: the solutions that are the best by loss + price
// * cost for a range of prices. At most one more than there are choices that are not the cheapest
// of their group.
std::vector<Solution> hull(const std::vector<Group>& groups);

}  // namespace vernier::search
