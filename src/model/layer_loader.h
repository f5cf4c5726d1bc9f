// What an architecture loads a layer's parts with, all on the weights' device: linears as their
// source stores them, small tensors converted to FP32 whatever the file holds.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/layers/linear_site.h"
#include "model/module.h"
#include "model/weight_source.h"

namespace vernier::model {

class LayerLoader {
 public:
  // Names given to the methods below are relative to `prefix`. Both references must outlive the
  // parts.
  LayerLoader(const ModuleTree& tree, const WeightSource& weights, std::string prefix);

  const std::string& prefix() const { return prefix_; }
  bool has_tensor(std::string_view name) const;
  // REQUIRES: a linear of the tree.
  LinearSite linear(std::string_view module) const;
  Device* device() const { return weights_.device(); }
  // All elements of this rank's share of a tensor, in order. Throws Corrupt unless it is BF16, F16
  // or F32. REQUIRES: a tensor of the tree.
  Vector<float> values(std::string_view tensor) const;
  std::vector<float> host_values(std::string_view tensor) const;
  // The same as a matrix: the first dimension by all others.
  AnyMatrix matrix(std::string_view tensor) const;

 private:
  const TensorSpec& spec(std::string_view tensor) const;
  static std::vector<float> values_of(const TensorSpec& spec, const TensorView& view);

  const ModuleTree& tree_;
  const WeightSource& weights_;
  std::string prefix_;
};

}  // namespace vernier::model
