#include "model/module.h"

#include <utility>

namespace vernier::model {

ModuleTree::ModuleTree(std::vector<LayerKind> layers, std::vector<Module> modules,
                       std::vector<AttentionSite> attentions)
    : layers_(std::move(layers)), modules_(std::move(modules)), attentions_(std::move(attentions)) {
  for (size_t index = 0; index < modules_.size(); ++index) {
    const bool is_new = by_name_.emplace(modules_[index].name, index).second;
    VERNIER_CHECK(is_new);
    for (const TensorSpec& tensor : modules_[index].tensors) by_tensor_.emplace(tensor.name, index);
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

std::vector<const Module*> ModuleTree::modules_of(int layer) const {
  std::vector<const Module*> found;
  for (const Module& module : modules_) {
    if (module.layer == layer) found.push_back(&module);
  }
  return found;
}

}  // namespace vernier::model
