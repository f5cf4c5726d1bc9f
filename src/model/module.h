// The module tree: every weight-owning piece of a network, named as in the checkpoint, in network
// order. An architecture builds it from config.json alone; recipes, loading, export and search read
// it, and none of them knows an architecture's name.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/cut.h"
#include "tensor/tensor.h"

namespace vernier::model {

enum class ModuleKind {
  kLinear,     // y = W x: may be quantized
  kEmbedding,  // a table of rows: may be quantized
  kConv1d,
  kNorm,
  kRouter,     // its gate and correction bias; computed in FP32, never quantized
  kParameter,  // loose tensors of a mixer, which is the module: A_log, D, dt_bias
};

enum class LayerKind { kMamba, kAttention, kMlp, kMoe };

struct TensorSpec {
  std::string name;  // in full: "backbone.layers.0.mixer.in_proj.weight"
  Shape shape;
  Cut cut = {};
};

struct Module {
  std::string name;  // "backbone.layers.0.mixer.in_proj"
  ModuleKind kind = ModuleKind::kLinear;
  int layer = -1;   // position in the stack, -1 outside of it
  int expert = -1;  // the routed expert it belongs to, -1 for none
  int64_t n = 0;    // rows of a linear's or embedding's weight [n, k]
  int64_t k = 0;
  // Modules with the same non-empty group are fused by serving kernels and share their scales'
  // amax: "backbone.layers.5.mixer.qkv_proj" for q, k and v.
  std::string fusion_group;
  // The same linear of a layer's other routed experts: "backbone.layers.1.mixer.experts.up_proj".
  std::string expert_group;
  std::vector<TensorSpec> tensors;  // what it owns, the weight first

  // Its weight is a matrix [n, k], which may be quantized.
  bool has_matrix() const { return kind == ModuleKind::kLinear || kind == ModuleKind::kEmbedding; }
};

// An attention layer, whose keys and values may be quantized in the cache.
struct AttentionSite {
  std::string name;  // the mixer: "backbone.layers.5.mixer"
  int layer = -1;
  std::string k_proj, v_proj;  // module names that carry k_scale and v_scale in a checkpoint
};

// Rows and columns of a matrix that a tensor rank holds. REQUIRES: has_matrix().
struct MatrixShare {
  int64_t n = 0;
  int64_t k = 0;
};
MatrixShare share_of(const Module& module, comm::Share tensor);

class ModuleTree {
 public:
  ModuleTree(std::vector<LayerKind> layers, std::vector<Module> modules,
             std::vector<AttentionSite> attentions);

  const std::vector<LayerKind>& layers() const { return layers_; }
  const std::vector<Module>& modules() const { return modules_; }
  const std::vector<AttentionSite>& attentions() const { return attentions_; }
  // Null when there is none.
  const Module* find(std::string_view name) const;
  // The module that owns a tensor, null when none does (mtp.* and other tensors that pass through).
  const Module* owner_of(std::string_view tensor_name) const;
  // Routed experts of a layer; none outside the stack.
  int64_t n_experts(int layer) const;
  // Modules of a layer, in order; -1: those outside the stack.
  std::vector<const Module*> modules_of(int layer) const;

 private:
  std::vector<LayerKind> layers_;
  std::vector<Module> modules_;
  std::vector<AttentionSite> attentions_;
  std::vector<int64_t> n_experts_;  // by layer
  std::unordered_map<std::string, size_t> by_name_;
  std::unordered_map<std::string, size_t> by_tensor_;
};

}  // namespace vernier::model
