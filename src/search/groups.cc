#include "search/groups.h"

#include <fmt/format.h>

namespace vernier::search {
namespace {

// "backbone.layers.1.mixer.experts.7.up_proj" -> "backbone.layers.1.mixer.experts"
std::string experts_container(const model::Module& module) {
  const size_t end = module.name.rfind(fmt::format(".{}.", module.expert));
  return module.name.substr(0, end);
}

std::string group_name(const model::Module& module) {
  if (module.expert >= 0) return experts_container(module);
  return module.fusion_group.empty() ? module.name : module.fusion_group;
}

}  // namespace

std::vector<ModuleGroup> make_groups(const model::ModuleTree& tree) {
  std::vector<ModuleGroup> groups;
  std::unordered_map<std::string, size_t> by_name;
  for (const model::Module& module : tree.modules()) {
    if (module.kind != model::ModuleKind::kLinear) continue;
    const std::string name = group_name(module);
    const auto [at, is_new] = by_name.try_emplace(name, groups.size());
    if (is_new) groups.push_back({name, module.layer, module.expert >= 0, {}, 0});
    ModuleGroup& group = groups[at->second];
    group.modules.push_back(&module);
    group.n_weights += module.n * module.k;
  }
  return groups;
}

GroupIndex::GroupIndex(const std::vector<ModuleGroup>& groups) {
  for (size_t index = 0; index < groups.size(); ++index) {
    for (const model::Module* module : groups[index].modules) by_module_[module] = index;
  }
}

}  // namespace vernier::search
