// The mixture of experts: a sigmoid router over routed experts, in a latent space or not, and one
// shared expert that every token visits.
#pragma once

#include <optional>
#include <vector>

#include "kernels/router.h"
#include "model/layers/mixer.h"
#include "model/layers/mlp.h"

namespace vernier::model {

class Moe : public Mixer {
 public:
  struct Latent {
    LinearSite fc1;  // hidden -> latent, before the experts
    LinearSite fc2;  // latent -> hidden, after their weighted sum
  };
  struct Weights {
    Matrix gate;                         // [n_experts, hidden], FP32
    std::vector<float> correction_bias;  // [n_experts]
    std::vector<SquaredReluMlp> experts;
    SquaredReluMlp shared;
    std::optional<Latent> latent;
  };

  // `layer` is what the hook is told of.
  Moe(int layer, const kernels::RouterShape& shape, Weights weights);

  std::unique_ptr<LayerState> new_state() const override { return std::make_unique<NoState>(); }

  //   z = fc1 u or u;  r = sum over a token's experts of weight * expert(z);  y = (fc2 r or r) +
  //   shared(u)
  // The router and the shared expert see u. Experts run one after another over their own tokens and
  // add to r in ascending order, so that the sum does not depend on threads.
  void forward(ConstMatrixView u, std::span<const SequenceRows> sequences, SiteHook* hook,
               MatrixView y) const override;

 private:
  kernels::Routing statistics_routing(ConstMatrixView logits, int64_t top_k) const;
  // The block for a given routing.
  void run(ConstMatrixView u, const kernels::Routing& routing, SiteHook* hook, MatrixView y) const;
  void run_routed(ConstMatrixView u, const kernels::Routing& routing, SiteHook* hook,
                  MatrixView y) const;
  // r = the weighted sum of the experts over z.
  void run_experts(ConstMatrixView z, const kernels::Routing& routing, SiteHook* hook,
                   MatrixView r) const;

  int layer_;
  kernels::RouterShape shape_;
  Weights weights_;
};

}  // namespace vernier::model
