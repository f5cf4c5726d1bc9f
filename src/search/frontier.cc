// The whole frontier is the dynamic program of states.h without bounds. The hull is walked from the
// cheapest choices on: along each group's own hull the next choice saves so much loss for so much
// more cost, and the steps of all groups are taken in the order of that ratio.
#include "search/frontier.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include "base/check.h"
#include "search/grid.h"
#include "search/prices.h"
#include "search/states.h"

namespace vernier::search {
namespace {

// From one corner of a group's hull to the next, costlier one.
struct Step {
  size_t group = 0;
  int32_t choice = 0;  // of the next corner
  int64_t saved_loss = 0;
  int64_t added_cost = 0;
};

// Whether `a` saves more for a unit of cost. Exact: factors are below 2^61.
bool is_steeper(const Step& a, const Step& b) {
  return Wide{a.saved_loss} * b.added_cost > Wide{b.saved_loss} * a.added_cost;
}

Step step_between(size_t group, const Item& from, const Item& to) {
  return {group, to.choice, from.loss - to.loss, to.cost[0] - from.cost[0]};
}

// The items of a group on its lower convex hull, by rising cost. Items that no other one beats rise
// in cost as they fall in loss.
std::vector<Item> corners(const ItemGroup& group) {
  std::vector<Item> hull;
  for (auto item = group.rbegin(); item != group.rend(); ++item) {
    const auto bends_up = [&] {
      const size_t n = hull.size();
      return n >= 2 && !is_steeper(step_between(0, hull[n - 2], hull[n - 1]),
                                   step_between(0, hull[n - 1], *item));
    };
    while (bends_up()) hull.pop_back();
    hull.push_back(*item);
  }
  return hull;
}

std::optional<std::vector<Solution>> whole(const std::vector<Group>& groups, size_t max_points) {
  const std::vector<ItemGroup> items = on_grid(groups, 1);
  VERNIER_CHECK(max_points < (size_t{1} << 31) / (groups.size() + 1));
  States states(items, 1, std::numeric_limits<size_t>::max());
  for (size_t group = 0; group < items.size(); ++group) {
    std::vector<int32_t> places(items[group].size());
    std::iota(places.begin(), places.end(), 0);
    states.extend(group, places, [](const State&) { return true; });
    if (states.states().size() > max_points) return std::nullopt;
  }
  std::vector<Solution> points;
  for (const State& state : states.states()) {
    std::vector<int> chosen(groups.size());
    states.trace(state, chosen);
    points.push_back(solution_of(groups, 1, std::move(chosen)));
  }
  return points;
}

}  // namespace

std::vector<Solution> hull(const std::vector<Group>& groups) {
  const std::vector<ItemGroup> items = on_grid(groups, 1);
  std::vector<int> chosen;
  std::vector<Step> steps;
  for (size_t group = 0; group < items.size(); ++group) {
    const std::vector<Item> own = corners(items[group]);
    chosen.push_back(own.front().choice);
    for (size_t corner = 1; corner < own.size(); ++corner) {
      steps.push_back(step_between(group, own[corner - 1], own[corner]));
    }
  }
  // Stable: the steps of a group stay in order, each is less steep than the one before.
  std::stable_sort(steps.begin(), steps.end(), is_steeper);

  std::vector<Solution> points{solution_of(groups, 1, chosen)};
  for (size_t at = 0; at < steps.size(); ++at) {
    chosen[steps[at].group] = steps[at].choice;
    // Equally steep steps lie on one edge.
    const bool is_corner = at + 1 == steps.size() || is_steeper(steps[at], steps[at + 1]);
    if (is_corner) points.push_back(solution_of(groups, 1, chosen));
  }
  return points;
}

Frontier frontier(const std::vector<Group>& groups, std::span<const int64_t> budgets,
                  size_t max_points) {
  if (std::optional<std::vector<Solution>> points = whole(groups, max_points)) {
    return {true, std::move(*points)};
  }
  Frontier some{false, hull(groups)};
  for (std::optional<Solution>& solution : solve_all(groups, budgets)) {
    if (solution) some.points.push_back(std::move(*solution));
  }
  // Of one cost there is one point.
  const auto by_cost = [](const Solution& a, const Solution& b) { return a.cost < b.cost; };
  const auto same_cost = [](const Solution& a, const Solution& b) { return a.cost == b.cost; };
  std::stable_sort(some.points.begin(), some.points.end(), by_cost);
  some.points.erase(std::unique(some.points.begin(), some.points.end(), same_cost),
                    some.points.end());
  return some;
}

}  // namespace vernier::search
