// The mixture of experts: a sigmoid router over routed experts, in a latent space or not, and one
// shared expert that every token visits.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kernels/router.h"
#include "model/layers/mixer.h"
#include "model/layers/mlp.h"

namespace vernier::model {

// The most (token, expert) pairs whose activations are held at once, unless one expert alone has
// more.
int64_t expert_batch_pairs(const Device* device);

class Moe : public Mixer {
 public:
  struct Latent {
    LinearSite fc1;  // hidden -> latent, before the experts
    LinearSite fc2;  // latent -> hidden, after their weighted sum
  };
  struct Weights {
    std::string name;               // the mixer's in the checkpoint
    AnyMatrix gate;                 // [n_experts, hidden], FP32
    Vector<float> correction_bias;  // [n_experts]
    std::vector<SquaredReluMlp> experts;
    SquaredReluMlp shared;
    std::optional<Latent> latent;
  };

  // `layer` is what the hook is told of. Runs on `device`, where the weights are.
  Moe(int layer, const kernels::RouterShape& shape, Weights weights, Device* device);

  std::unique_ptr<LayerState> new_state() const override { return std::make_unique<NoState>(); }

  //   z = fc1 u or u;  r = sum over a token's experts of weight * expert(z);  y = (fc2 r or r) +
  //   shared(u)
  // The router and the shared expert see u. Experts run a batch of neighbours at a time over their
  // own tokens and add to r in ascending order, so that the sum depends neither on threads nor on
  // batches.
  void forward(const LinearInput& u, std::span<const SequenceRows> sequences, SiteHook* hook,
               AnyMatrixView y) const override;
  void backward(ConstAnyMatrixView u, std::span<const kernels::SequenceSpan> sequences,
                Gradients g_y, GradientHook* hook, Gradients g_u) const override;

 private:
  struct Routed {
    AnyMatrix logits;
    kernels::Routing routing;
    kernels::ExpertGroups groups;
  };
  Routed route(ConstAnyMatrixView u) const;
  // Weights of all experts, in order.
  struct Experts {
    std::span<const kernels::GroupWeight> up, down;
  };
  Experts own_experts() const { return {up_, down_}; }
  kernels::Routing statistics_routing(ConstAnyMatrixView logits, int64_t top_k) const;
  // The block for a given routing.
  void run(ConstAnyMatrixView u, const kernels::Routing& routing,
           const kernels::ExpertGroups& groups, SiteHook* hook, AnyMatrixView y) const;
  void run_routed(ConstAnyMatrixView u, const kernels::Routing& routing,
                  const kernels::ExpertGroups& groups, const Experts& experts, SiteHook* hook,
                  AnyMatrixView y) const;
  // r = the weighted sum of the experts over z. r: FP32, contiguous.
  void run_experts(ConstAnyMatrixView z, const kernels::Routing& routing,
                   const kernels::ExpertGroups& groups, const Experts& experts, SiteHook* hook,
                   AnyMatrixView r) const;
  // Experts [first, last) over their tokens, whose outputs are added to r.
  void run_batch(ConstAnyMatrixView z, const kernels::Routing& routing,
                 const kernels::ExpertGroups& groups, size_t first, size_t last,
                 const Experts& experts, SiteHook* hook, AnyMatrixView r) const;

  // A backward pass after its routing.
  struct Pass;
  // Adds to g_u what reaches it through the experts, and fills the gradients of the routing's
  // weights.
  void backward_routed(const Pass& pass, Gradients g_u) const;
  void backward_batch(const Pass& pass, ConstAnyMatrixView z, size_t first, size_t last,
                      Gradients g_r, AnyMatrixView r, Gradients g_z) const;
  void backward_router(const Pass& pass, ConstAnyMatrixView logits, Gradients g_u) const;
  void show_experts(const Pass& pass, ConstAnyMatrixView y) const;

  int layer_;
  kernels::RouterShape shape_;
  Weights weights_;
  std::vector<kernels::GroupWeight> up_, down_;  // by expert
  Device* device_;
};

}  // namespace vernier::model
