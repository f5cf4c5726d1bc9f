#include "model/partitioned_weights.h"

#include <utility>

namespace vernier::model {

PartitionedWeights::PartitionedWeights(std::shared_ptr<const WeightSource> source,
                                       comm::Share share)
    : source_(std::move(source)), share_(share) {
  VERNIER_CHECK(source_->device() == nullptr);
}

LinearWeight PartitionedWeights::linear(const Module& module) const {
  const TensorSpec& spec = module.tensors.front();
  if (!spec.cut.is_cut()) return source_->linear(module);
  const std::lock_guard lock(mutex_);
  const auto known = linears_.find(spec.name);
  if (known != linears_.end()) return known->second;
  LinearWeight weight = source_->linear(module);
  weight.owner = std::make_shared<formats::PackedTensor>(
      cut_packed(weight.packed, spec.cut, share_, module.name));
  weight.packed = weight.owner->view();
  return linears_.emplace(spec.name, std::move(weight)).first->second;
}

TensorView PartitionedWeights::tensor(const TensorSpec& spec) const {
  if (!spec.cut.is_cut()) return source_->tensor(spec);
  const std::lock_guard lock(mutex_);
  const auto known = tensors_.find(spec.name);
  if (known != tensors_.end()) return known->second.view();
  return tensors_.emplace(spec.name, cut_tensor(source_->tensor(spec), spec.cut, share_))
      .first->second.view();
}

void PartitionedWeights::done_with(const Module& module) const {
  source_->done_with(module);
  const std::lock_guard lock(mutex_);
  linears_.erase(module.tensors.front().name);
  for (const TensorSpec& spec : module.tensors) tensors_.erase(spec.name);
}

}  // namespace vernier::model
