// The share of another source's weights that one of several tensor ranks computes with.
#pragma once

#include <mutex>
#include <unordered_map>

#include "model/weight_source.h"

namespace vernier::model {

// Cuts what its source, a host's, holds whole. A share is a copy, made when it is first asked for
// and kept until done_with().
class PartitionedWeights : public WeightSource {
 public:
  PartitionedWeights(std::shared_ptr<const WeightSource> source, comm::Share share);

  LinearWeight linear(const Module& module) const override;
  TensorView tensor(const TensorSpec& spec) const override;
  KvRule kv_rule(const AttentionSite& site) const override { return source_->kv_rule(site); }
  void will_need(const Module& module) const override { source_->will_need(module); }
  void done_with(const Module& module) const override;

 private:
  std::shared_ptr<const WeightSource> source_;
  comm::Share share_;
  mutable std::mutex mutex_;
  // By the name of a module's weight, and of any other tensor.
  mutable std::unordered_map<std::string, LinearWeight> linears_;
  mutable std::unordered_map<std::string, Tensor> tensors_;
};

}  // namespace vernier::model
