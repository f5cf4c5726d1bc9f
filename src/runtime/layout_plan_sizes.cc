#include "runtime/layout_plan_sizes.h"

#include <algorithm>
#include <utility>

namespace vernier::runtime {
namespace {

constexpr int64_t kBf16Bytes = 2;

int64_t tensor_bytes(const model::Module& module) {
  int64_t bytes = 0;
  for (const model::TensorSpec& spec : module.tensors) bytes += n_bytes(DType::kBF16, spec.shape);
  return bytes;
}

int64_t weights_of(const model::Module& module) { return module.n * module.k; }

int64_t kept_weights(const model::Module& module, comm::Share tensor) {
  const auto [n, k] = share_of(module, tensor);
  return n * k;
}

// Of all routed experts' weights, those that one token visits.
double visited_share(const model::Model& model) {
  int64_t n_dense = 0;
  int64_t n_routed = 0;
  for (const model::Module& module : model.tree().modules()) {
    if (module.kind != model::ModuleKind::kLinear) continue;
    (module.expert < 0 ? n_dense : n_routed) += weights_of(module);
  }
  if (n_routed == 0) return 0;
  return static_cast<double>(model.active_weights() - n_dense) / static_cast<double>(n_routed);
}

class Measuring {
 public:
  explicit Measuring(const model::Model& share)
      : model_(share), tensor_(share.ranks().place().tensor), visited_share_(visited_share(share)) {
    sizes_.layers.resize(share.tree().layers().size());
  }

  NetworkSizes run() {
    for (const model::Module& module : model_.tree().modules()) {
      LayerSizes& layer = layer_of(module);
      module.expert < 0 ? add_dense(module, layer) : add_expert(module, layer);
    }
    sizes_.embedding_bytes = kBf16Bytes * kept_weights(model_.embedding(), tensor_);
    sizes_.largest_edge_bytes =
        kBf16Bytes * std::max(weights_of(model_.embedding()), weights_of(model_.head()));
    return std::move(sizes_);
  }

 private:
  LayerSizes& layer_of(const model::Module& module) {
    return module.layer < 0 ? sizes_.outside : sizes_.layers[static_cast<size_t>(module.layer)];
  }
  double tp() const { return static_cast<double>(tensor_.count); }

  void add_dense(const model::Module& module, LayerSizes& layer) const {
    const int64_t bytes = tensor_bytes(module);
    layer.dense_bytes += bytes;
    layer.largest_dense_bytes = std::max(layer.largest_dense_bytes, bytes);
    if (module.kind != model::ModuleKind::kLinear || module.layer < 0) return;
    const int64_t kept = kept_weights(module, tensor_);
    layer.share_bytes += kBf16Bytes * kept;
    const bool is_of_own_rows =
        !module.tensors.front().cut.is_cut() &&
        model_.tree().layers()[static_cast<size_t>(module.layer)] == model::LayerKind::kMoe;
    layer.active_weights += static_cast<double>(kept) / (is_of_own_rows ? tp() : 1);
  }

  // An expert's linears follow one another as they run.
  void add_expert(const model::Module& module, LayerSizes& layer) const {
    const int64_t weights = weights_of(module);
    layer.expert_bytes += tensor_bytes(module);
    layer.active_weights += static_cast<double>(weights) * visited_share_ / tp();
    if (module.expert == 0) {
      if (layer.expert_in == 0) {
        layer.expert_in = module.k;
        layer.expert_inner = module.n;
      }
      layer.expert_out = module.n;
    }
    layer.top_k = visited_share_ * static_cast<double>(module.expert + 1);
  }

  const model::Model& model_;
  comm::Share tensor_;
  double visited_share_;
  NetworkSizes sizes_;
};

}  // namespace

NetworkSizes measure_network(const model::Model& share) { return Measuring(share).run(); }

}  // namespace vernier::runtime
