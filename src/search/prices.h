// Lagrange multipliers: prices of a unit of every constraint's cost, in loss. Whatever the prices,
// the least of (loss + price * cost) of each group, summed, less price * budget, is at most the
// loss of any solution that keeps the budgets.
#pragma once

#include <vector>

#include "search/grid.h"

namespace vernier::search {

// Holds sums of losses << 60 and of prices * costs (each below 2^61 * 2^60, four constraints).
using Wide = __int128;

// Integers, so that the bound is exact.
struct Prices {
  int shift = 0;  // of losses: prices are in grid units of loss / 2^shift
  Cost price{};

  Wide of(const Cost& cost) const {
    Wide sum = 0;
    for (size_t k = 0; k < kMaxConstraints; ++k) sum += Wide{price[k]} * cost[k];
    return sum;
  }
  Wide of(const Item& item) const { return (Wide{item.loss} << shift) + of(item.cost); }
  // The first of the items of least priced loss.
  size_t cheapest(const ItemGroup& group) const;
};

// First the prices whose bound is highest (nearly: any prices bound, better ones only do so
// closer), then prices around them, nearer ones first, last very high ones.
std::vector<Prices> prices_around_best(const std::vector<ItemGroup>& groups, const Cost& budgets,
                                       size_t n_constraints);

}  // namespace vernier::search
