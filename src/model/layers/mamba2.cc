#include "model/layers/mamba2.h"

#include <utility>
#include <vector>

#include "kernels/causal_conv.h"
#include "kernels/elementwise.h"
#include "kernels/rms_norm.h"

namespace vernier::model {

namespace {

struct MambaState : LayerState {
  MambaState(const Mamba2::Shape& shape, Device* device)
      : conv_history(new_activation(shape.conv_taps - 1, shape.conv_channels(), device)),
        ssm(new_zeros(shape.inner(), shape.ssm.state_dim, device)) {
    fill_zero(conv_history.view().data, device, conv_history.size_bytes());
  }

  int64_t size_bytes() const override { return conv_history.size_bytes() + ssm.size_bytes(); }

  AnyMatrix conv_history;  // x, B, C of the last tokens, before convolution and SiLU
  AnyMatrix ssm;  // [n_heads * head_dim, state_dim], FP32 whatever mamba_ssm_cache_dtype says
};

}  // namespace

Mamba2::Mamba2(const Shape& shape, Weights weights, Device* device)
    : shape_(shape), weights_(std::move(weights)), device_(device) {}

std::unique_ptr<LayerState> Mamba2::new_state() const {
  return std::make_unique<MambaState>(shape_, device_);
}

std::optional<kernels::InputCodes> Mamba2::input_codes(int64_t n_tokens) const {
  return weights_.in_proj.input_codes(n_tokens);
}

void Mamba2::forward(const LinearInput& u, std::span<const SequenceRows> sequences, SiteHook* hook,
                     AnyMatrixView y) const {
  AnyMatrix projected = new_activation(u.x.rows, weights_.in_proj.n(), device_);
  weights_.in_proj.forward(u, hook, projected);
  AnyMatrix dt(u.x.rows, shape_.ssm.n_heads, DType::kF32, device_);
  AnyMatrix convolved = new_activation(u.x.rows, shape_.conv_channels(), device_);
  AnyMatrix scanned = new_activation(u.x.rows, shape_.inner(), device_);
  run_between(projected, sequences, dt, convolved, scanned, scanned);
  weights_.out_proj.forward(scanned, hook, y);
}

void Mamba2::run_between(ConstAnyMatrixView projected, std::span<const SequenceRows> sequences,
                         AnyMatrixView dt, AnyMatrixView convolved, AnyMatrixView scanned,
                         AnyMatrixView normed) const {
  const int64_t inner = shape_.inner();
  const int64_t n_conv = shape_.conv_channels();
  kernels::softplus_dt(projected.col_range(inner + n_conv, shape_.ssm.n_heads), weights_.dt_bias,
                       shape_.dt_low, shape_.dt_high, dt);
  convolve(projected.col_range(inner, n_conv), sequences, convolved);
  scan(convolved, dt, sequences, scanned);
  kernels::gated_group_norm(scanned, projected.col_range(0, inner), weights_.norm,
                            shape_.ssm.n_groups, shape_.norm_eps, normed);
}

void Mamba2::convolve(ConstAnyMatrixView xbc, std::span<const SequenceRows> sequences,
                      AnyMatrixView convolved) const {
  std::vector<kernels::ConvSequence> parts;
  for (const SequenceRows& rows : sequences) {
    auto& state = static_cast<MambaState&>(*rows.state);
    parts.push_back({rows.first_row, rows.n_tokens, state.conv_history});
  }
  kernels::causal_conv_silu(xbc, weights_.conv_weight, weights_.conv_bias, parts, convolved);
}

// Single tokens, as decoding brings them, take the recurrence.
void Mamba2::scan(ConstAnyMatrixView convolved, ConstAnyMatrixView dt,
                  std::span<const SequenceRows> sequences, AnyMatrixView y) const {
  std::vector<kernels::ScanSequence> single, longer;
  for (const SequenceRows& rows : sequences) {
    auto& state = static_cast<MambaState&>(*rows.state);
    (rows.n_tokens == 1 ? single : longer).push_back({rows.first_row, rows.n_tokens, state.ssm});
  }
  const kernels::SsmInputs inputs = scan_inputs(convolved, dt);
  if (!single.empty()) kernels::ssm_scan_recurrent(shape_.ssm, inputs, single, y);
  if (!longer.empty()) kernels::ssm_scan_chunked(shape_.ssm, inputs, longer, y);
}

kernels::SsmInputs Mamba2::scan_inputs(ConstAnyMatrixView convolved, ConstAnyMatrixView dt) const {
  const int64_t inner = shape_.inner();
  const int64_t bc_width = shape_.bc_width();
  return {.x = convolved.col_range(0, inner),
          .b = convolved.col_range(inner, bc_width),
          .c = convolved.col_range(inner + bc_width, bc_width),
          .dt = dt,
          .a = weights_.a,
          .d = weights_.d};
}

}  // namespace vernier::model
