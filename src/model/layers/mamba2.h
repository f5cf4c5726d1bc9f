// The Mamba-2 mixer: projection, causal convolution, state-space scan, gated norm, projection.
#pragma once

#include <string>

#include "kernels/ssm_scan.h"
#include "model/layers/linear_site.h"
#include "model/layers/mixer.h"

namespace vernier::model {

class Mamba2 : public Mixer {
 public:
  struct Shape {
    kernels::SsmShape ssm;
    int64_t conv_taps;
    float dt_low, dt_high;  // clamp of dt after softplus
    float norm_eps;

    int64_t inner() const { return ssm.n_heads * ssm.head_dim; }
    int64_t bc_width() const { return ssm.n_groups * ssm.state_dim; }
    int64_t conv_channels() const { return inner() + 2 * bc_width(); }
  };
  struct Weights {
    std::string name;         // the mixer's in the checkpoint
    LinearSite in_proj;       // rows z, x, B, C, dt
    AnyMatrix conv_weight;    // [conv_channels, conv_taps], channels x, B, C
    Vector<float> conv_bias;  // [conv_channels] or empty
    Vector<float> a;          // [n_heads], -exp(A_log)
    Vector<float> d;          // [n_heads]
    Vector<float> dt_bias;    // [n_heads]
    Vector<float> norm;       // [inner]
    LinearSite out_proj;
  };

  // Runs on `device`, where the weights are.
  Mamba2(const Shape& shape, Weights weights, Device* device);

  std::unique_ptr<LayerState> new_state() const override;
  std::optional<kernels::InputCodes> input_codes(int64_t n_tokens) const override;
  void forward(const LinearInput& u, std::span<const SequenceRows> sequences, SiteHook* hook,
               AnyMatrixView y) const override;
  void backward(ConstAnyMatrixView u, std::span<const kernels::SequenceSpan> sequences,
                Gradients g_y, GradientHook* hook, Gradients g_u) const override;

 private:
  // What a backward pass needs of the forward pass.
  struct Tape;
  // Of one loss: from the gradient of the gated norm's output, overwritten, to that of in_proj's
  // output.
  void backward_between(const Tape& tape, std::span<const kernels::SequenceSpan> sequences,
                        GradientHook* hook, size_t loss, AnyMatrixView g_normed,
                        AnyMatrixView g_projected) const;
  kernels::SsmInputs scan_inputs(ConstAnyMatrixView convolved, ConstAnyMatrixView dt) const;
  // From in_proj's output to out_proj's input; normed may be scanned.
  void run_between(ConstAnyMatrixView projected, std::span<const SequenceRows> sequences,
                   AnyMatrixView dt, AnyMatrixView convolved, AnyMatrixView scanned,
                   AnyMatrixView normed) const;
  // Both carry the sequences' states on.
  void convolve(ConstAnyMatrixView xbc, std::span<const SequenceRows> sequences,
                AnyMatrixView convolved) const;
  void scan(ConstAnyMatrixView convolved, ConstAnyMatrixView dt,
            std::span<const SequenceRows> sequences, AnyMatrixView y) const;

  Shape shape_;
  Weights weights_;
  Device* device_;
};

}  // namespace vernier::model
