// A knapsack in integers: losses on a grid of one unit for all groups (knapsack.h says which),
// without the choices that another one of their group beats.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "search/knapsack.h"

namespace vernier::search {

// Constraints that a problem lacks have costs and budgets of 0.
using Cost = std::array<int64_t, kMaxConstraints>;

inline Cost operator+(const Cost& a, const Cost& b) {
  Cost sum;
  for (size_t k = 0; k < kMaxConstraints; ++k) sum[k] = a[k] + b[k];
  return sum;
}

inline bool fits(const Cost& cost, const Cost& budgets) {
  bool all = true;
  for (size_t k = 0; k < kMaxConstraints; ++k) all &= cost[k] <= budgets[k];
  return all;
}

struct Item {
  int64_t loss = 0;       // above the least of the group; all groups together stay below 2^61
  Cost cost{};            // all groups together stay below 2^60
  int32_t choice = 0;     // its place in the group
  int32_t name_rank = 0;  // the place of its name in the sorted names of the group
};
using ItemGroup = std::vector<Item>;

// Items by rising loss. None is beaten: no other item of its group has a loss and costs that are at
// most as large, but the one of equal items whose name comes first. Throws as solve() does.
std::vector<ItemGroup> on_grid(const std::vector<Group>& groups, size_t n_constraints);

// The solution that takes these choices.
Solution solution_of(const std::vector<Group>& groups, size_t n_constraints,
                     std::vector<int> chosen);

}  // namespace vernier::search
