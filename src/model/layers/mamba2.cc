#include "model/layers/mamba2.h"

#include <cmath>
#include <utility>

#include "kernels/causal_conv.h"
#include "kernels/elementwise.h"
#include "kernels/rms_norm.h"

namespace vernier::model {

namespace {

struct MambaState : LayerState {
  MambaState(const Mamba2::Shape& shape)
      : conv_history(shape.conv_taps - 1, shape.conv_channels()),
        ssm(shape.inner(), shape.ssm.state_dim) {}

  int64_t size_bytes() const override {
    return static_cast<int64_t>(conv_history.values().size_bytes() + ssm.values().size_bytes());
  }

  Matrix conv_history;  // x, B, C of the last tokens, before convolution and SiLU
  Matrix ssm;           // [n_heads * head_dim, state_dim], FP32 whatever mamba_ssm_cache_dtype says
};

}  // namespace

Mamba2::Mamba2(const Shape& shape, Weights weights) : shape_(shape), weights_(std::move(weights)) {
  for (float a_log : weights_.a_log) a_.push_back(-std::exp(a_log));
}

std::unique_ptr<LayerState> Mamba2::new_state() const {
  return std::make_unique<MambaState>(shape_);
}

void Mamba2::forward(ConstMatrixView u, std::span<const SequenceRows> sequences, SiteHook* hook,
                     MatrixView y) const {
  const int64_t inner = shape_.inner();
  const int64_t n_conv = shape_.conv_channels();
  Matrix projected(u.rows, weights_.in_proj.n());
  weights_.in_proj.forward(u, hook, projected);
  const MatrixView z = projected.view().col_range(0, inner);
  const MatrixView xbc = projected.view().col_range(inner, n_conv);
  const MatrixView dt = projected.view().col_range(inner + n_conv, shape_.ssm.n_heads);
  kernels::softplus_dt(dt, weights_.dt_bias, shape_.dt_low, shape_.dt_high);

  Matrix convolved(u.rows, n_conv);
  Matrix scanned(u.rows, inner);
  for (const SequenceRows& rows : sequences) scan(xbc, dt, rows, convolved, scanned);
  kernels::gated_group_norm(scanned, z, weights_.norm, shape_.ssm.n_groups, shape_.norm_eps,
                            scanned);
  weights_.out_proj.forward(scanned, hook, y);
}

void Mamba2::scan(ConstMatrixView xbc, ConstMatrixView dt, const SequenceRows& rows,
                  MatrixView convolved, MatrixView y) const {
  auto& state = static_cast<MambaState&>(*rows.state);
  const ConstMatrixView conv_weight(weights_.conv_weight.data(), shape_.conv_channels(),
                                    shape_.conv_taps);
  const MatrixView mine = convolved.row_range(rows.first_row, rows.n_tokens);
  kernels::causal_conv_silu(xbc.row_range(rows.first_row, rows.n_tokens), conv_weight,
                            weights_.conv_bias, state.conv_history, mine);
  const int64_t inner = shape_.inner();
  const int64_t bc_width = shape_.bc_width();
  const kernels::SsmInputs inputs{.x = mine.col_range(0, inner),
                                  .b = mine.col_range(inner, bc_width),
                                  .c = mine.col_range(inner + bc_width, bc_width),
                                  .dt = dt.row_range(rows.first_row, rows.n_tokens),
                                  .a = a_,
                                  .d = weights_.d};
  const auto run = rows.n_tokens == 1 ? kernels::ssm_scan_recurrent : kernels::ssm_scan_chunked;
  run(shape_.ssm, inputs, state.ssm, y.row_range(rows.first_row, rows.n_tokens));
}

}  // namespace vernier::model
