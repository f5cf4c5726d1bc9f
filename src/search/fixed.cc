#include "search/fixed.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace vernier::search {
namespace {

bool same_decision(const quant::SitePlan& site, const quant::SitePlan& other) {
  return site.weight_format == other.weight_format && site.scale_rule == other.scale_rule &&
         site.input_format == other.input_format;
}

}  // namespace

std::vector<CandidateList> fixed_lists(const quant::QuantPlan& plan,
                                       const std::vector<const Candidate*>& candidates,
                                       const model::ModuleTree& tree) {
  std::vector<quant::QuantPlan> uniform;
  for (const Candidate* candidate : candidates) {
    uniform.push_back(
        quant::make_plan(uniform_recipe(*candidate), tree, {.unquantizable_bf16 = true}));
  }
  std::vector<CandidateList> lists;
  for (const ModuleGroup& group : make_groups(tree)) {
    const model::Module& module = *group.modules.front();
    const quant::SitePlan& site = plan.site(module);
    if (!site.is_quantized()) continue;
    const auto same = std::ranges::find_if(uniform, [&](const quant::QuantPlan& candidate) {
      return same_decision(site, candidate.site(module));
    });
    if (same == uniform.end()) {
      throw Error(ErrorKind::kInvalidArgument,
                  fmt::format("--fixed: what the recipe makes of {} ({}) is none of --candidates",
                              module.name, site.weight_format->name));
    }
    const Candidate* candidate = candidates[static_cast<size_t>(same - uniform.begin())];
    const std::string pattern = group.is_routed ? group.name + ".*" : module.name;
    if (group.is_routed || group.modules.size() == 1) {
      lists.push_back({pattern, {candidate}});
      continue;
    }
    // q, k and v: one pattern for all, and for nothing else.
    lists.push_back(
        {module.name.substr(0, module.name.rfind('.') + 1) + "[qkv]_proj", {candidate}});
  }
  return lists;
}

}  // namespace vernier::search
