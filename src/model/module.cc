#include "model/module.h"

#include <algorithm>
#include <utility>

namespace vernier::model {

MatrixShare share_of(const Module& module, comm::Share tensor) {
  const Cut& cut = module.tensors.front().cut;
  MatrixShare share{module.n, module.k};
  if (cut.is_cut()) (cut.kind == CutKind::kRows ? share.n : share.k) = kept_size(cut, tensor);
  return share;
}

ModuleTree::ModuleTree(std::vector<LayerKind> layers, std::vector<Module> modules,
                       std::vector<AttentionSite> attentions)
    : layers_(std::move(layers)),
      modules_(std::move(modules)),
      attentions_(std::move(attentions)),
      n_experts_(layers_.size(), 0) {
  for (size_t index = 0; index < modules_.size(); ++index) {
    const bool is_new = by_name_.emplace(modules_[index].name, index).second;
    VERNIER_CHECK(is_new);
    for (const TensorSpec& tensor : modules_[index].tensors) by_tensor_.emplace(tensor.name, index);
    if (modules_[index].layer < 0) continue;
    int64_t& n_experts = n_experts_[static_cast<size_t>(modules_[index].layer)];
    n_experts = std::max<int64_t>(n_experts, modules_[index].expert + 1);
  }
}

const Module* ModuleTree::find(std::string_view name) const {
  const auto it = by_name_.find(std::string(name));
  return it == by_name_.end() ? nullptr : &modules_[it->second];
}

const Module* ModuleTree::owner_of(std::string_view tensor_name) const {
  const auto it = by_tensor_.find(std::string(tensor_name));
  return it == by_tensor_.end() ? nullptr : &modules_[it->second];
}

int64_t ModuleTree::n_experts(int layer) const {
  return layer < 0 ? 0 : n_experts_[static_cast<size_t>(layer)];
}

std::vector<const Module*> ModuleTree::modules_of(int layer) const {
  std::vector<const Module*> found;
  for (const Module& module : modules_) {
    if (module.layer == layer) found.push_back(&module);
  }
  return found;
}

}  // namespace vernier::model
