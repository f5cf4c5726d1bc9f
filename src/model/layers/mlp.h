// The dense MLP: y = down(max(up u, 0)^2), no gate, no bias.
#pragma once

#include "model/layers/linear_site.h"
#include "model/layers/mixer.h"

namespace vernier::model {

// One pair of projections: a dense MLP, a shared expert or a routed one.
struct SquaredReluMlp {
  LinearSite up;
  LinearSite down;

  void forward(const LinearInput& u, SiteHook* hook, AnyMatrixView y) const;
  // g_u: overwritten.
  void backward(ConstAnyMatrixView u, Gradients g_y, GradientHook* hook, Gradients g_u) const;
};

class Mlp : public Mixer {
 public:
  explicit Mlp(SquaredReluMlp mlp) : mlp_(std::move(mlp)) {}

  std::unique_ptr<LayerState> new_state() const override { return std::make_unique<NoState>(); }
  std::optional<kernels::InputCodes> input_codes(int64_t n_tokens) const override {
    return mlp_.up.input_codes(n_tokens);
  }
  void forward(const LinearInput& u, std::span<const SequenceRows> sequences, SiteHook* hook,
               AnyMatrixView y) const override;
  void backward(ConstAnyMatrixView u, std::span<const kernels::SequenceSpan> sequences,
                Gradients g_y, GradientHook* hook, Gradients g_u) const override;

 private:
  SquaredReluMlp mlp_;
};

}  // namespace vernier::model
