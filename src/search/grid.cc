#include "search/grid.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "base/check.h"
#include "base/error.h"

namespace vernier::search {
namespace {

// The largest losses of all groups sum to at most this many bits of grid units, their largest costs
// to less than this many bits: room for products of both in 128 bits (prices.h).
constexpr int kSumBits = 60;

void check_choice(const Choice& choice, size_t group) {
  if (!std::isfinite(choice.loss)) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("the loss of choice \"{}\" of group {} is {}, expected a finite number",
                            choice.name, group, choice.loss));
  }
  for (const int64_t cost : choice.cost) {
    if (cost >= 0) continue;
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("a cost of choice \"{}\" of group {} is {}, expected 0 or more",
                            choice.name, group, cost));
  }
}

void check_groups(const std::vector<Group>& groups, size_t n_constraints) {
  VERNIER_CHECK(n_constraints >= 1 && n_constraints <= kMaxConstraints);
  std::vector<int64_t> sums(n_constraints, 0);
  for (size_t group = 0; group < groups.size(); ++group) {
    if (groups[group].empty()) {
      throw Error(ErrorKind::kInvalidArgument, fmt::format("group {} has no choices", group));
    }
    std::vector<int64_t> largest(n_constraints, 0);
    for (const Choice& choice : groups[group]) {
      VERNIER_CHECK(choice.cost.size() == n_constraints);
      check_choice(choice, group);
      for (size_t k = 0; k < n_constraints; ++k) {
        largest[k] = std::max(largest[k], choice.cost[k]);
      }
    }
    for (size_t k = 0; k < n_constraints; ++k) {
      if (largest[k] >= (int64_t{1} << kSumBits) - sums[k]) {
        throw Error(ErrorKind::kInvalidArgument,
                    fmt::format("the largest costs of {} groups sum to 2^{} or more, use a larger "
                                "unit of cost",
                                group + 1, kSumBits));
      }
      sums[k] += largest[k];
    }
  }
}

// Losses times 2^exponent are in grid units: their sum of largest magnitudes S < 2^(60 - exponent).
int grid_exponent(const std::vector<Group>& groups) {
  long double sum = 0;  // of doubles: cannot overflow
  for (const Group& group : groups) {
    double largest = 0;
    for (const Choice& choice : group) largest = std::max(largest, std::abs(choice.loss));
    sum += largest;
  }
  int exponent = 0;
  std::frexp(sum, &exponent);  // sum < 2^exponent
  return kSumBits - exponent;
}

std::vector<int32_t> name_ranks(const Group& group) {
  std::vector<int32_t> order(group.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return group[static_cast<size_t>(a)].name < group[static_cast<size_t>(b)].name;
  });
  std::vector<int32_t> ranks(group.size());
  for (size_t rank = 0; rank < order.size(); ++rank) {
    ranks[static_cast<size_t>(order[rank])] = static_cast<int32_t>(rank);
  }
  return ranks;
}

// Of items sorted by loss, cost and name, only an earlier one can beat a later one.
ItemGroup without_beaten(ItemGroup items) {
  std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    return std::tie(a.loss, a.cost, a.name_rank) < std::tie(b.loss, b.cost, b.name_rank);
  });
  ItemGroup kept;
  for (const Item& item : items) {
    const bool is_beaten = std::any_of(
        kept.begin(), kept.end(), [&](const Item& other) { return fits(other.cost, item.cost); });
    if (!is_beaten) kept.push_back(item);
  }
  return kept;
}

ItemGroup group_on_grid(const Group& group, int exponent) {
  const std::vector<int32_t> ranks = name_ranks(group);
  ItemGroup items;
  for (size_t place = 0; place < group.size(); ++place) {
    Item item{.loss = std::llrint(std::ldexp(group[place].loss, exponent)),
              .choice = static_cast<int32_t>(place),
              .name_rank = ranks[place]};
    std::copy(group[place].cost.begin(), group[place].cost.end(), item.cost.begin());
    items.push_back(item);
  }
  items = without_beaten(std::move(items));
  const int64_t least = items.front().loss;
  for (Item& item : items) item.loss -= least;
  return items;
}

}  // namespace

std::vector<ItemGroup> on_grid(const std::vector<Group>& groups, size_t n_constraints) {
  check_groups(groups, n_constraints);
  const int exponent = grid_exponent(groups);
  std::vector<ItemGroup> items;
  for (const Group& group : groups) items.push_back(group_on_grid(group, exponent));
  return items;
}

Solution solution_of(const std::vector<Group>& groups, size_t n_constraints,
                     std::vector<int> chosen) {
  Solution solution{.cost = std::vector<int64_t>(n_constraints, 0)};
  for (size_t group = 0; group < groups.size(); ++group) {
    const Choice& choice = groups[group][static_cast<size_t>(chosen[group])];
    solution.loss += choice.loss;
    for (size_t k = 0; k < n_constraints; ++k) solution.cost[k] += choice.cost[k];
  }
  solution.chosen = std::move(chosen);
  return solution;
}

}  // namespace vernier::search
