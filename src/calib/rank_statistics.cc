#include "calib/rank_statistics.h"

namespace vernier::calib {
namespace {

constexpr float kAbsent = -1;

template <class Map, class Key, class Value>
void flatten(const Map& seen, const Key* key, Value to_values, std::vector<float>& flat) {
  const auto found = seen.find(key);
  for (const float value : to_values(found == seen.end() ? nullptr : &found->second)) {
    flat.push_back(value);
  }
}

std::vector<float> one(const float* amax) { return {amax == nullptr ? kAbsent : *amax}; }
std::vector<float> both(const KvAmax* amax) {
  return amax == nullptr ? std::vector{kAbsent, kAbsent} : std::vector{amax->k, amax->v};
}

std::vector<const model::AttentionSite*> sites_of(const model::ModuleTree& tree, int layer) {
  std::vector<const model::AttentionSite*> sites;
  for (const model::AttentionSite& site : tree.attentions()) {
    if (site.layer == layer) sites.push_back(&site);
  }
  return sites;
}

// By expert; empty where no rank has routed anything.
std::vector<int64_t> sum_tokens(const std::vector<int64_t>& own, size_t n_experts,
                                const comm::Communicator& ranks) {
  std::vector<int64_t> sums = own;
  sums.resize(n_experts);
  sums.push_back(own.empty() ? 0 : 1);
  ranks.sum(std::span(sums));
  const bool is_routed = sums.back() > 0;
  sums.pop_back();
  return is_routed ? sums : std::vector<int64_t>();
}

}  // namespace

LayerStatistics statistics_of_ranks(const LayerStatistics& own, const model::ModuleTree& tree,
                                    int layer, const comm::Communicator& ranks) {
  if (ranks.size() == 1) return own;
  const std::vector<const model::Module*> modules = tree.modules_of(layer);
  const std::vector<const model::AttentionSite*> sites = sites_of(tree, layer);
  std::vector<float> amax;
  for (const model::Module* module : modules) flatten(own.input_amax, module, one, amax);
  for (const model::AttentionSite* site : sites) flatten(own.kv_amax, site, both, amax);
  ranks.max(std::span(amax));

  LayerStatistics all;
  auto next = amax.begin();
  for (const model::Module* module : modules) {
    if (const float value = *next++; value != kAbsent) all.input_amax[module] = value;
  }
  for (const model::AttentionSite* site : sites) {
    const float k = *next++;
    const float v = *next++;
    if (k != kAbsent) all.kv_amax[site] = {k, v};
  }
  all.expert_tokens =
      sum_tokens(own.expert_tokens, static_cast<size_t>(tree.n_experts(layer)), ranks);
  return all;
}

}  // namespace vernier::calib
