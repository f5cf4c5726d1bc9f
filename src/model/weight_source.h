// Where a model's weights come from: a BF16 checkpoint, an exported one, a sharded one, or a BF16
// one seen through fake quantization. Layers load through this interface and never know which.
#pragma once

#include <memory>
#include <string_view>

#include "formats/format.h"
#include "kernels/linear.h"
#include "model/module.h"

namespace vernier::model {

// A linear's weight and the rule for its input.
struct LinearWeight {
  formats::PackedView packed;
  std::shared_ptr<const formats::PackedTensor>
      owner;  // null when the source itself holds the bytes
  kernels::InputRule input;
};

// How an attention layer's cache stores keys and values.
struct KvRule {
  const formats::Format* format = nullptr;  // null: unquantized
  float k_scale = 1;                        // as the format's round_input takes it
  float v_scale = 1;
};

// Safe for concurrent reads when it is a host's. What it returns stays valid as long as the source
// does.
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // Where linear weights are, and so where layers run; null: the host.
  virtual Device* device() const { return nullptr; }
  // The weight of a linear or an embedding. Throws NotFound, or Corrupt when shapes disagree.
  virtual LinearWeight linear(const Module& module) const = 0;
  // Any other tensor, in host memory, checked against its spec's shape.
  virtual TensorView tensor(const TensorSpec& spec) const = 0;
  virtual KvRule kv_rule(const AttentionSite& site) const = 0;
  // The share of these weights that a tensor rank computes with, from a source that can read it
  // alone; null from one that cannot.
  virtual std::shared_ptr<const WeightSource> share(comm::Share) const { return nullptr; }
  // Hints that a layer's tensors are needed soon, or no longer.
  virtual void will_need(const Module&) const {}
  virtual void done_with(const Module&) const {}
};

}  // namespace vernier::model
