// Dynamic programming over the groups with bounds. Groups whose choices differ most in cost come
// first: the small ones that come last can use up what is left of the budgets, so that the bounds
// of what is decided early are close.
//
// Why the result is the best: a state is dropped only where another one of the same groups beats it
// (states.h), where it cannot be completed within the budgets, or where a lower bound on the loss
// of all its completions (prices.h) is above the loss of a known solution. None of these happens to
// a state on the way to the best solution. An item is passed over only where the bound of all
// solutions that hold it is above the loss of a known one: it is not of the best solution.
#include "search/knapsack.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>

#include "base/check.h"
#include "search/grid.h"
#include "search/prices.h"
#include "search/states.h"

namespace vernier::search {
namespace {

Cost least_costs(const ItemGroup& group) {
  Cost least = group.front().cost;
  for (const Item& item : group) {
    for (size_t k = 0; k < kMaxConstraints; ++k) least[k] = std::min(least[k], item.cost[k]);
  }
  return least;
}

// Takes out what does not fit even when all other groups take their least. False where a group is
// left with nothing: no solution.
bool drop_unaffordable(std::vector<ItemGroup>& groups, const Cost& budgets) {
  Cost least{};
  for (const ItemGroup& group : groups) least = least + least_costs(group);
  if (!fits(least, budgets)) return false;
  for (ItemGroup& group : groups) {
    const Cost own = least_costs(group);
    Cost allowed;
    for (size_t k = 0; k < kMaxConstraints; ++k) allowed[k] = budgets[k] - (least[k] - own[k]);
    std::erase_if(group, [&](const Item& item) { return !fits(item.cost, allowed); });
    if (group.empty()) return false;
  }
  return true;
}

double log2_of(Wide value) { return std::log2(static_cast<double>(value) + 1); }

class Search {
 public:
  Search(const std::vector<ItemGroup>& groups, const Cost& budgets, size_t n_constraints);

  std::optional<std::vector<int>> run(size_t max_states);

 private:
  // What the groups from one place of the order on add at some prices.
  struct Rest {
    Wide bound = 0;  // least priced losses, less the priced budgets
    int64_t loss = 0;
    Cost cost{};  // of the items with the least priced losses
  };

  void sort_groups();
  void sum_rests();
  bool may_be_best(size_t level, const State& state);
  std::vector<int32_t> possible_items(const ItemGroup& group) const;

  const std::vector<ItemGroup>& groups_;
  Cost budgets_;
  size_t n_constraints_;
  std::vector<Prices> prices_;
  std::vector<size_t> order_;
  std::vector<Rest> rests_;        // [groups + 1, prices]
  std::vector<Cost> least_costs_;  // [groups + 1], of the groups from there on
  int64_t best_loss_ = 0;          // no more than this is the loss of the best solution
};

Search::Search(const std::vector<ItemGroup>& groups, const Cost& budgets, size_t n_constraints)
    : groups_(groups),
      budgets_(budgets),
      n_constraints_(n_constraints),
      prices_(prices_around_best(groups, budgets, n_constraints)) {
  for (const ItemGroup& group : groups_) best_loss_ += group.back().loss;
  sort_groups();
  sum_rests();
}

// By spread^4 / certainty, falling, where the certainty of a group is what its second-best choice
// adds to the bound: of groups about as wide the least certain one comes first. The order decides
// only how long the search takes (a fifth of the time of the spread alone on correlated losses).
void Search::sort_groups() {
  std::vector<double> key;
  for (const ItemGroup& group : groups_) {
    std::vector<Wide> priced;
    Wide least = prices_[0].of(group.front().cost), most = least;
    for (const Item& item : group) {
      priced.push_back(prices_[0].of(item));
      least = std::min(least, prices_[0].of(item.cost));
      most = std::max(most, prices_[0].of(item.cost));
    }
    std::sort(priced.begin(), priced.end());
    const Wide certainty = group.size() > 1 ? priced[1] - priced[0] : 0;
    key.push_back(4 * log2_of(most - least) - log2_of(certainty));
  }
  order_.resize(groups_.size());
  std::iota(order_.begin(), order_.end(), size_t{0});
  std::stable_sort(order_.begin(), order_.end(),
                   [&](size_t a, size_t b) { return key[a] > key[b]; });
}

void Search::sum_rests() {
  rests_.resize((order_.size() + 1) * prices_.size());
  least_costs_.resize(order_.size() + 1);
  for (size_t t = 0; t < prices_.size(); ++t) {
    rests_[order_.size() * prices_.size() + t].bound = -prices_[t].of(budgets_);
  }
  for (size_t level = order_.size(); level-- > 0;) {
    const ItemGroup& group = groups_[order_[level]];
    least_costs_[level] = least_costs_[level + 1] + least_costs(group);
    for (size_t t = 0; t < prices_.size(); ++t) {
      const Item& item = group[prices_[t].cheapest(group)];
      const Rest& after = rests_[(level + 1) * prices_.size() + t];
      rests_[level * prices_.size() + t] = {after.bound + prices_[t].of(item),
                                            after.loss + item.loss, after.cost + item.cost};
    }
  }
}

// Prices give both: a bound of every completion, and one completion, which may be a better solution
// than any before.
bool Search::may_be_best(size_t level, const State& state) {
  if (!fits(state.cost + least_costs_[level], budgets_)) return false;
  const Rest* rest = &rests_[level * prices_.size()];
  for (const Prices& prices : prices_) {
    const Wide above = (Wide{state.loss - best_loss_} << prices.shift) + prices.of(state.cost);
    if (above + rest->bound > 0) return false;
    const int64_t loss = state.loss + rest->loss;
    if (loss < best_loss_ && fits(state.cost + rest->cost, budgets_)) best_loss_ = loss;
    ++rest;
  }
  return true;
}

std::vector<int32_t> Search::possible_items(const ItemGroup& group) const {
  const Prices& prices = prices_[0];
  const Wide least = prices.of(group[prices.cheapest(group)]);
  const Wide allowed = (Wide{best_loss_} << prices.shift) - rests_[0].bound;
  std::vector<int32_t> places;
  for (size_t place = 0; place < group.size(); ++place) {
    if (prices.of(group[place]) - least <= allowed) places.push_back(static_cast<int32_t>(place));
  }
  return places;
}

std::optional<std::vector<int>> Search::run(size_t max_states) {
  States states(groups_, n_constraints_, max_states);
  if (!may_be_best(0, states.states().front())) return std::nullopt;
  for (size_t level = 0; level < order_.size(); ++level) {
    const size_t group = order_[level];
    states.extend(group, possible_items(groups_[group]),
                  [&](const State& state) { return may_be_best(level + 1, state); });
  }
  if (states.states().empty()) return std::nullopt;
  const State& best = *std::min_element(
      states.states().begin(), states.states().end(), [](const State& a, const State& b) {
        return std::tie(a.loss, a.cost) < std::tie(b.loss, b.cost);
      });
  std::vector<int> chosen(groups_.size());
  states.trace(best, chosen);
  return chosen;
}

// A budget above what all groups can spend excludes nothing: it need not be larger.
Cost clip(const std::vector<int64_t>& budgets, const std::vector<ItemGroup>& groups) {
  Cost largest{};
  for (const ItemGroup& group : groups) {
    for (size_t k = 0; k < budgets.size(); ++k) {
      int64_t cost = 0;
      for (const Item& item : group) cost = std::max(cost, item.cost[k]);
      largest[k] += cost;
    }
  }
  Cost clipped{};
  for (size_t k = 0; k < budgets.size(); ++k) clipped[k] = std::min(budgets[k], largest[k]);
  return clipped;
}

std::optional<Solution> solve(const std::vector<Group>& groups, const std::vector<int64_t>& budgets,
                              size_t max_states) {
  std::vector<ItemGroup> items = on_grid(groups, budgets.size());
  const Cost clipped = clip(budgets, items);
  if (!drop_unaffordable(items, clipped)) return std::nullopt;
  std::optional<std::vector<int>> chosen = Search(items, clipped, budgets.size()).run(max_states);
  if (!chosen) return std::nullopt;
  return solution_of(groups, budgets.size(), std::move(*chosen));
}

}  // namespace

std::optional<Solution> solve(const Problem& problem, size_t max_states) {
  return solve(problem.groups, problem.budgets, max_states);
}

std::vector<std::optional<Solution>> solve_all(const std::vector<Group>& groups,
                                               std::span<const int64_t> budgets) {
  std::vector<std::optional<Solution>> solutions;
  for (const int64_t budget : budgets) {
    solutions.push_back(solve(groups, {budget}, kMaxStates));
  }
  return solutions;
}

int64_t least_cost(const std::vector<Group>& groups, size_t constraint) {
  int64_t sum = 0;
  for (const Group& group : groups) {
    VERNIER_CHECK(!group.empty());
    int64_t least = std::numeric_limits<int64_t>::max();
    for (const Choice& choice : group) least = std::min(least, choice.cost.at(constraint));
    sum += least;
  }
  return sum;
}

}  // namespace vernier::search
