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
  const int64_t inner = shape_.inner();
  const int64_t n_conv = shape_.conv_channels();
  const int64_t n_tokens = u.x.rows;
  AnyMatrix projected = new_activation(n_tokens, weights_.in_proj.n(), device_);
  weights_.in_proj.forward(u, hook, projected);
  const AnyMatrixView z = projected.view().col_range(0, inner);
  const AnyMatrixView xbc = projected.view().col_range(inner, n_conv);
  AnyMatrix dt(n_tokens, shape_.ssm.n_heads, DType::kF32, device_);
  kernels::softplus_dt(projected.view().col_range(inner + n_conv, shape_.ssm.n_heads),
                       weights_.dt_bias, shape_.dt_low, shape_.dt_high, dt);

  AnyMatrix convolved = new_activation(n_tokens, n_conv, device_);
  convolve(xbc, sequences, convolved);
  AnyMatrix scanned = new_activation(n_tokens, inner, device_);
  scan(convolved, dt, sequences, scanned);
  kernels::gated_group_norm(scanned, z, weights_.norm, shape_.ssm.n_groups, shape_.norm_eps,
                            scanned);
  weights_.out_proj.forward(scanned, hook, y);
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
  const int64_t inner = shape_.inner();
  const int64_t bc_width = shape_.bc_width();
  const kernels::SsmInputs inputs{.x = convolved.col_range(0, inner),
                                  .b = convolved.col_range(inner, bc_width),
                                  .c = convolved.col_range(inner + bc_width, bc_width),
                                  .dt = dt,
                                  .a = weights_.a,
                                  .d = weights_.d};
  if (!single.empty()) kernels::ssm_scan_recurrent(shape_.ssm, inputs, single, y);
  if (!longer.empty()) kernels::ssm_scan_chunked(shape_.ssm, inputs, longer, y);
}

}  // namespace vernier::model
