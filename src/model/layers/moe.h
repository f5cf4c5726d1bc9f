// The mixture of experts: a sigmoid router over routed experts, in a latent space or not, and one
// shared expert that every token visits.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "comm/ranks.h"
#include "kernels/router.h"
#include "model/layers/expert_batch.h"
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
    std::string name;                     // the mixer's in the checkpoint
    AnyMatrix gate;                       // [n_experts, hidden], FP32
    Vector<float> correction_bias;        // [n_experts]
    std::vector<SquaredReluMlp> experts;  // those of this rank
    SquaredReluMlp shared;
    std::optional<Latent> latent;
  };

  // `layer` is what the hook is told of. Runs on `device`, where the weights are, on `ranks`
  // together, which must outlive it.
  Moe(int layer, const kernels::RouterShape& shape, Weights weights, const comm::Ranks& ranks,
      Device* device);

  std::unique_ptr<LayerState> new_state() const override { return std::make_unique<NoState>(); }

  //   z = fc1 u or u;  r = sum over a token's experts of weight * expert(z);  y = (fc2 r or r) +
  //   shared(u)
  // The router and the shared expert see u. Experts run a batch of neighbours at a time over their
  // own tokens and add to r in ascending order, so that the sum depends neither on threads nor on
  // batches. Of tensor ranks, which see the same tokens, each routes its own part of them: to
  // experts of this rank or, in exchange for others' tokens, of others.
  void forward(const LinearInput& u, std::span<const SequenceRows> sequences, SiteHook* hook,
               AnyMatrixView y) const override;
  int64_t common_pieces(int64_t n_pieces) const override;
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
  // How many experts a token visits for statistics; top_k where it is the true routing's.
  int64_t statistics_top_k(SiteHook* hook) const;
  kernels::Routing route_logits(const kernels::RouterShape& shape, ConstAnyMatrixView logits) const;
  kernels::ExpertGroups group(const kernels::Routing& routing) const;
  kernels::Routing statistics_routing(ConstAnyMatrixView logits, int64_t top_k) const;
  // The rows of a piece whose tokens this rank routes, in runs that all ranks route at once.
  std::vector<comm::Range> routed_rows(int64_t n_rows, SiteHook* hook) const;
  // y += what the routed experts make of u.
  void add_routed(ConstAnyMatrixView u, SiteHook* hook, AnyMatrixView y) const;
  // The same for a given routing, overwritten.
  void run_routed(ConstAnyMatrixView u, const kernels::Routing& routing,
                  const kernels::ExpertGroups& groups, const Experts& experts, SiteHook* hook,
                  AnyMatrixView y) const;
  // r = the weighted sum of the experts over z. r: FP32, contiguous.
  void run_experts(ConstAnyMatrixView z, const kernels::Routing& routing,
                   const kernels::ExpertGroups& groups, const Experts& experts, SiteHook* hook,
                   AnyMatrixView r) const;
  // The same over experts of all ranks.
  void run_experts_of_ranks(ConstAnyMatrixView z, const kernels::Routing& routing,
                            const kernels::ExpertGroups& groups, const Experts& experts,
                            SiteHook* hook, AnyMatrixView r) const;
  // A batch of experts over their tokens, the rows of input.
  void run_batch(ConstAnyMatrixView input, const ExpertBatch& batch, const Experts& experts,
                 SiteHook* hook, AnyMatrixView output) const;

  // A backward pass after its routing.
  struct Pass;
  // A batch of experts on its way back.
  struct Tape;
  // What reaches these rows through the router and the experts, added to g_u.
  void add_routed_gradient(ConstAnyMatrixView u, int64_t first_row, Gradients g_y,
                           GradientHook* hook, Gradients g_u) const;
  // Adds to g_u what reaches it through the experts, and fills the gradients of the routing's
  // weights.
  void backward_routed(const Pass& pass, Gradients g_u) const;
  // The experts alone: r += their weighted sum over z, g_z += its gradient, from that of r.
  void backward_experts(const Pass& pass, ConstAnyMatrixView z, Gradients g_r, AnyMatrixView r,
                        Gradients g_z) const;
  // The same over experts of all ranks.
  void backward_experts_of_ranks(const Pass& pass, ConstAnyMatrixView z, Gradients g_r,
                                 AnyMatrixView r, Gradients g_z) const;
  // A batch of experts over their tokens, the rows of input, and back.
  Tape run_batch_for_gradient(ConstAnyMatrixView input, const ExpertBatch& batch) const;
  void backward_batch(const Tape& tape, GradientHook* hook, Gradients g_output,
                      Gradients g_input) const;
  void backward_router(const Pass& pass, ConstAnyMatrixView logits, Gradients g_u) const;
  void show_experts(const Pass& pass, ConstAnyMatrixView y) const;

  int layer_;
  kernels::RouterShape shape_;
  Weights weights_;
  const comm::Ranks& ranks_;
  std::vector<kernels::GroupWeight> up_, down_;  // by expert
  Device* device_;
};

}  // namespace vernier::model
