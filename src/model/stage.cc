#include "model/stage.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace vernier::model {
namespace {

std::vector<int64_t> weights_by_layer(const ModuleTree& tree) {
  std::vector<int64_t> weights(tree.layers().size(), 0);
  for (const Module& module : tree.modules()) {
    if (module.layer >= 0) weights[static_cast<size_t>(module.layer)] += module.n * module.k;
  }
  return weights;
}

// The first layer of every stage, and the end: each boundary where the weights before it are
// nearest to the stages' share of all.
std::vector<int64_t> boundaries(const std::vector<int64_t>& weights, int64_t n_stages) {
  const auto n_layers = std::ssize(weights);
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<int64_t> first = {0};
  int64_t layer = 0;
  double before = 0;
  for (int64_t stage = 1; stage < n_stages; ++stage) {
    const double wanted = total * static_cast<double>(stage) / static_cast<double>(n_stages);
    const int64_t most = n_layers - (n_stages - stage);  // a layer is left for each later stage
    do {
      before += static_cast<double>(weights[static_cast<size_t>(layer++)]);
    } while (layer < most &&
             before + static_cast<double>(weights[static_cast<size_t>(layer)]) / 2 <= wanted);
    first.push_back(layer);
  }
  first.push_back(n_layers);
  return first;
}

}  // namespace

comm::Range stage_layers(const ModuleTree& tree, comm::Share pipeline) {
  VERNIER_CHECK(pipeline.count <= std::ssize(tree.layers()));
  const std::vector<int64_t> first = boundaries(weights_by_layer(tree), pipeline.count);
  const auto stage = static_cast<size_t>(pipeline.index);
  return {first[stage], first[stage + 1]};
}

comm::Range layers_here(const Model& model) {
  return stage_layers(model.tree(), model.ranks().place().pipeline);
}

bool is_here(const Model& model, const Module& module) {
  if (module.layer < 0) return true;
  if (!layers_here(model).holds(module.layer)) return false;
  const int64_t n_experts = model.tree().n_experts(module.layer);
  return module.expert < 0 ||
         comm::part_of(n_experts, model.ranks().place().expert).holds(module.expert);
}

}  // namespace vernier::model
