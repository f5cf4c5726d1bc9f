// The Mamba-2 mixer: projection, causal convolution, state-space scan, gated norm, projection.
#pragma once

#include <vector>

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
    LinearSite in_proj;              // rows z, x, B, C, dt
    std::vector<float> conv_weight;  // [conv_channels, conv_taps], channels x, B, C
    std::vector<float> conv_bias;    // [conv_channels] or empty
    std::vector<float> a_log;        // [n_heads]
    std::vector<float> d;            // [n_heads]
    std::vector<float> dt_bias;      // [n_heads]
    std::vector<float> norm;         // [inner]
    LinearSite out_proj;
  };

  Mamba2(const Shape& shape, Weights weights);

  std::unique_ptr<LayerState> new_state() const override;
  void forward(ConstMatrixView u, std::span<const SequenceRows> sequences, SiteHook* hook,
               MatrixView y) const override;

 private:
  // The part between the projections that a sequence's state takes part in.
  void scan(ConstMatrixView xbc, ConstMatrixView dt, const SequenceRows& rows, MatrixView convolved,
            MatrixView y) const;

  Shape shape_;
  Weights weights_;
  std::vector<float> a_;  // -exp(A_log)
};

}  // namespace vernier::model
