// Decisions of a search: which linear modules must share a format, since serving kernels fuse them.
// q, k and v of an attention layer are one group, all routed experts of a layer another; every
// other linear module decides alone.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/module.h"

namespace vernier::search {

struct ModuleGroup {
  std::string name;  // the fusion group's, the experts' container's, or the module's
  int layer = -1;    // -1: outside the stack
  bool is_routed = false;
  std::vector<const model::Module*> modules;
  int64_t n_weights = 0;
};

// Every linear module in one group, in network order.
std::vector<ModuleGroup> make_groups(const model::ModuleTree& tree);

// The index of the group of each module of `groups`.
class GroupIndex {
 public:
  explicit GroupIndex(const std::vector<ModuleGroup>& groups);
  // REQUIRES: a module of some group.
  size_t of(const model::Module& module) const { return by_module_.at(&module); }

 private:
  std::unordered_map<const model::Module*, size_t> by_module_;
};

}  // namespace vernier::search
