// Partial solutions of the dynamic program: what the groups seen so far may cost and lose together.
// Of all ways only those remain that no other one beats: with losses and costs at most as large,
// and of equal ones the one whose names come first (Nemhauser and Ullmann, 1969). Whatever the
// groups to come add, the best solution remains among the ways.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "search/grid.h"

namespace vernier::search {

struct State {
  Cost cost{};
  int64_t loss = 0;
  int32_t way = -1;  // the last step of the way here, of its parent while it is a candidate
  int32_t item = 0;  // the step to take from there
};

class States {
 public:
  // One state: nothing chosen, nothing spent.
  States(const std::vector<ItemGroup>& groups, size_t n_constraints, size_t max_states);

  // Goes on from every state with every one of these items of a group, as far as `keep(state)` says
  // so. Exactly without beaten states for one and two constraints; of more, some may stay.
  // Throws Unsupported after `max_states` states of all groups together, or candidates of one.
  // REQUIRES: a group not seen before, an item.
  template <class Keep>
  void extend(size_t group, std::span<const int32_t> items, Keep&& keep);

  // By rising cost (in lexicographic order).
  const std::vector<State>& states() const { return states_; }

  // Sets the choice of every group seen on the way to `state`.
  void trace(const State& state, std::vector<int>& chosen) const;

 private:
  struct Step {
    int32_t parent;
    int32_t group;
    int32_t item;
  };

  void check_number(size_t n_states) const;
  void take(size_t group, int32_t place);
  void merge_runs();
  void drop_beaten(size_t group);
  bool is_beaten(const State& candidate) const;
  void add(const State& candidate);
  bool comes_first(const State& a, const State& b, size_t group) const;

  const std::vector<ItemGroup>& groups_;
  size_t n_constraints_;
  size_t max_states_;
  std::vector<State> states_;
  std::vector<State> candidates_, merged_;
  std::vector<size_t> run_ends_;           // candidates_ is sorted between them
  std::map<int64_t, int64_t> least_loss_;  // of states_ by their second cost, falling
  std::vector<Step> steps_;
  std::vector<Step> common_;  // steps of all ways
};

template <class Keep>
void States::extend(size_t group, std::span<const int32_t> items, Keep&& keep) {
  candidates_.clear();
  if (items.size() == 1) {
    take(group, items.front());
    std::erase_if(states_, [&](const State& state) { return !keep(state); });
    return;
  }
  run_ends_.assign(1, 0);
  for (const int32_t place : items) {
    const Item& item = groups_[group][static_cast<size_t>(place)];
    for (const State& state : states_) {
      const State next{state.cost + item.cost, state.loss + item.loss, state.way, place};
      if (keep(next)) candidates_.push_back(next);
    }
    check_number(candidates_.size());
    run_ends_.push_back(candidates_.size());
  }
  merge_runs();
  drop_beaten(group);
}

}  // namespace vernier::search
