#include "search/states.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <tuple>

#include "base/error.h"

namespace vernier::search {
namespace {

// With three or four constraints a candidate is compared with this many states before it.
constexpr size_t kCompared = 256;

bool is_before(const State& a, const State& b) {
  return std::tie(a.cost, a.loss) < std::tie(b.cost, b.loss);
}

}  // namespace

States::States(const std::vector<ItemGroup>& groups, size_t n_constraints, size_t max_states)
    : groups_(groups), n_constraints_(n_constraints), max_states_(max_states), states_(1) {}

void States::check_number(size_t n_states) const {
  if (n_states <= max_states_) return;
  throw Error(
      ErrorKind::kUnsupported,
      fmt::format("choosing for {} groups takes more than {} states: losses are too closely "
                  "related to costs; use a larger unit of cost or fewer choices",
                  groups_.size(), max_states_));
}

// The one item left: a step of every way.
void States::take(size_t group, int32_t place) {
  const Item& item = groups_[group][static_cast<size_t>(place)];
  for (State& state : states_) {
    state.cost = state.cost + item.cost;
    state.loss += item.loss;
  }
  common_.push_back({-1, static_cast<int32_t>(group), place});
}

// Adding an item keeps the order of states, so candidates come as one sorted run for each item.
void States::merge_runs() {
  while (run_ends_.size() > 2) {
    merged_.resize(candidates_.size());
    std::vector<size_t> ends{0};
    size_t run = 0;
    for (; run + 2 < run_ends_.size(); run += 2) {
      const auto at = [&](size_t end) {
        return candidates_.begin() + static_cast<ptrdiff_t>(run_ends_[end]);
      };
      std::merge(at(run), at(run + 1), at(run + 1), at(run + 2),
                 merged_.begin() + static_cast<ptrdiff_t>(run_ends_[run]), is_before);
      ends.push_back(run_ends_[run + 2]);
    }
    if (run + 1 < run_ends_.size()) {
      std::copy(candidates_.begin() + static_cast<ptrdiff_t>(run_ends_[run]), candidates_.end(),
                merged_.begin() + static_cast<ptrdiff_t>(run_ends_[run]));
      ends.push_back(run_ends_[run + 1]);
    }
    candidates_.swap(merged_);
    run_ends_ = std::move(ends);
  }
}

// States before a candidate cost at most as much by the first constraint. With two constraints
// those with the least loss up to a second cost decide, with one that is the least loss of all.
bool States::is_beaten(const State& candidate) const {
  if (n_constraints_ <= 2) {
    const auto above = least_loss_.upper_bound(candidate.cost[1]);
    return above != least_loss_.begin() && std::prev(above)->second <= candidate.loss;
  }
  const size_t n_compared = std::min(states_.size(), kCompared);
  return std::any_of(states_.end() - static_cast<ptrdiff_t>(n_compared), states_.end(),
                     [&](const State& state) {
                       return state.loss <= candidate.loss && fits(state.cost, candidate.cost);
                     });
}

void States::add(const State& candidate) {
  states_.push_back(candidate);
  if (n_constraints_ > 2) return;
  const auto own = least_loss_.insert_or_assign(candidate.cost[1], candidate.loss).first;
  auto end = std::next(own);
  while (end != least_loss_.end() && end->second >= candidate.loss) ++end;
  least_loss_.erase(std::next(own), end);
}

void States::drop_beaten(size_t group) {
  states_.clear();
  least_loss_.clear();
  for (const State& candidate : candidates_) {
    const bool is_equal = !states_.empty() && states_.back().loss == candidate.loss &&
                          states_.back().cost == candidate.cost;
    if (is_equal) {
      if (comes_first(candidate, states_.back(), group)) states_.back() = candidate;
    } else if (!is_beaten(candidate)) {
      add(candidate);
    }
  }
  check_number(steps_.size() + states_.size());
  for (State& state : states_) {
    steps_.push_back({state.way, static_cast<int32_t>(group), state.item});
    state.way = static_cast<int32_t>(steps_.size() - 1);
  }
}

// Groups are not seen in their order: of all groups in which two ways differ, the first one counts.
// Ways share their beginning, so most walks are short.
bool States::comes_first(const State& a, const State& b, size_t group) const {
  int32_t first = std::numeric_limits<int32_t>::max();
  bool is_first = false;
  Step one{a.way, static_cast<int32_t>(group), a.item};
  Step other{b.way, static_cast<int32_t>(group), b.item};
  for (;;) {
    if (one.item != other.item && one.group < first) {
      const ItemGroup& items = groups_[static_cast<size_t>(one.group)];
      first = one.group;
      is_first = items[static_cast<size_t>(one.item)].name_rank <
                 items[static_cast<size_t>(other.item)].name_rank;
    }
    if (one.parent == other.parent) return is_first;
    one = steps_[static_cast<size_t>(one.parent)];
    other = steps_[static_cast<size_t>(other.parent)];
  }
}

void States::trace(const State& state, std::vector<int>& chosen) const {
  const auto set = [&](const Step& step) {
    const ItemGroup& items = groups_[static_cast<size_t>(step.group)];
    chosen[static_cast<size_t>(step.group)] = items[static_cast<size_t>(step.item)].choice;
  };
  for (const Step& step : common_) set(step);
  for (int32_t way = state.way; way >= 0; way = steps_[static_cast<size_t>(way)].parent) {
    set(steps_[static_cast<size_t>(way)]);
  }
}

}  // namespace vernier::search
