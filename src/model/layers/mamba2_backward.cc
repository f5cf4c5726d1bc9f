// Backward of the Mamba-2 mixer: the forward pass again, its intermediates kept, then its steps in
// reverse.
#include <vector>

#include "kernels/causal_conv_backward.h"
#include "kernels/elementwise.h"
#include "kernels/elementwise_backward.h"
#include "kernels/rms_norm.h"
#include "kernels/rms_norm_backward.h"
#include "kernels/ssm_scan_backward.h"
#include "model/layers/gradient_set.h"
#include "model/layers/mamba2.h"

namespace vernier::model {

struct Mamba2::Tape {
  AnyMatrix projected;  // z, x, B, C, dt before bias
  AnyMatrix dt;         // FP32, after softplus and clamp
  AnyMatrix convolved;  // x, B, C
  AnyMatrix scanned;
  AnyMatrix normed;

  Tape(int64_t n_tokens, const Shape& shape, int64_t projected_width, Device* device)
      : projected(new_activation(n_tokens, projected_width, device)),
        dt(n_tokens, shape.ssm.n_heads, DType::kF32, device),
        convolved(new_activation(n_tokens, shape.conv_channels(), device)),
        scanned(new_activation(n_tokens, shape.inner(), device)),
        normed(new_activation(n_tokens, shape.inner(), device)) {}
};

namespace {

// a = -exp(A_log), hence dLoss/dA_log = dLoss/da a. A few values: the host's work.
void add_a_log_gradient(const Vector<float>& g_a, const Vector<float>& a,
                        VectorView<float> g_a_log) {
  const std::vector<float> g_host = g_a.to_host();
  const std::vector<float> a_host = a.to_host();
  std::vector<float> sum(g_host.size());
  copy_bytes(sum.data(), nullptr, g_a_log.data, g_a_log.device,
             g_a_log.size * static_cast<int64_t>(sizeof(float)));
  for (size_t head = 0; head < sum.size(); ++head) sum[head] += g_host[head] * a_host[head];
  copy_bytes(g_a_log.data, g_a_log.device, sum.data(), nullptr,
             g_a_log.size * static_cast<int64_t>(sizeof(float)));
}

}  // namespace

void Mamba2::backward(ConstAnyMatrixView u, std::span<const kernels::SequenceSpan> sequences,
                      Gradients g_y, GradientHook* hook, Gradients g_u) const {
  Tape tape(u.rows, shape_, weights_.in_proj.n(), device_);
  std::vector<std::unique_ptr<LayerState>> states;
  std::vector<SequenceRows> rows;
  for (const kernels::SequenceSpan& sequence : sequences) {
    states.push_back(new_state());
    rows.push_back({sequence.first_row, sequence.n_rows, states.back().get()});
  }
  weights_.in_proj.forward(u, nullptr, tape.projected);
  run_between(tape.projected, rows, tape.dt, tape.convolved, tape.scanned, tape.normed);
  AnyMatrix y;
  if (hook != nullptr && hook->wants_outputs()) {
    y = AnyMatrix(u.rows, weights_.out_proj.n(), DType::kF32, device_);
    weights_.out_proj.forward(tape.normed, nullptr, y);
  }

  const size_t n_losses = g_y.size();
  const GradientSet g_normed =
      GradientSet::of_activation(n_losses, u.rows, shape_.inner(), device_);
  weights_.out_proj.backward(tape.normed, y, g_y, hook, g_normed);
  const GradientSet g_projected =
      GradientSet::of_activation(n_losses, u.rows, weights_.in_proj.n(), device_);
  for (size_t loss = 0; loss < n_losses; ++loss) {
    backward_between(tape, sequences, hook, loss, g_normed[loss], g_projected[loss]);
  }
  weights_.in_proj.backward(u, tape.projected, g_projected, hook, g_u);
}

void Mamba2::backward_between(const Tape& tape, std::span<const kernels::SequenceSpan> sequences,
                              GradientHook* hook, size_t loss, AnyMatrixView g_normed,
                              AnyMatrixView g_projected) const {
  const int64_t n_tokens = g_normed.rows;
  const int64_t inner = shape_.inner();
  const int64_t n_conv = shape_.conv_channels();
  const int64_t n_heads = shape_.ssm.n_heads;
  const ConstAnyMatrixView projected = tape.projected;
  const auto wanted = [&](const char* tensor) {
    return gradient_of(hook, loss, weights_.name + tensor);
  };

  const AnyMatrixView g_scanned = g_normed;
  kernels::gated_group_norm_backward(tape.scanned, projected.col_range(0, inner), weights_.norm,
                                     shape_.ssm.n_groups, shape_.norm_eps, g_normed, g_scanned,
                                     g_projected.col_range(0, inner), wanted(".norm.weight"));

  AnyMatrix g_convolved = new_activation(n_tokens, n_conv, device_);
  AnyMatrix g_dt(n_tokens, n_heads, DType::kF32, device_);
  const VectorView<float> g_a_log = wanted(".A_log");
  Vector<float> g_a;
  if (!g_a_log.empty()) {
    g_a = Vector<float>(n_heads, device_);
    fill_zero(g_a.view().data, device_, n_heads * static_cast<int64_t>(sizeof(float)));
  }
  const AnyMatrixView g_xbc = g_convolved;
  kernels::ssm_scan_backward(shape_.ssm, scan_inputs(tape.convolved, tape.dt), sequences, g_scanned,
                             {.x = g_xbc.col_range(0, inner),
                              .b = g_xbc.col_range(inner, shape_.bc_width()),
                              .c = g_xbc.col_range(inner + shape_.bc_width(), shape_.bc_width()),
                              .dt = g_dt,
                              .a = g_a,
                              .d = wanted(".D")});
  if (!g_a_log.empty()) add_a_log_gradient(g_a, weights_.a, g_a_log);

  const VectorView<float> g_taps = wanted(".conv1d.weight");
  const AnyMatrixView g_conv_weight(g_taps.data, g_taps.empty() ? 0 : n_conv, shape_.conv_taps,
                                    shape_.conv_taps, DType::kF32, device_);
  const VectorView<float> g_conv_bias =
      weights_.conv_bias.size() == 0 ? VectorView<float>() : wanted(".conv1d.bias");
  kernels::causal_conv_silu_backward(
      projected.col_range(inner, n_conv), weights_.conv_weight, weights_.conv_bias, sequences,
      g_convolved, g_projected.col_range(inner, n_conv), g_conv_weight, g_conv_bias);
  kernels::softplus_dt_backward(projected.col_range(inner + n_conv, n_heads), weights_.dt_bias,
                                shape_.dt_low, shape_.dt_high, g_dt,
                                g_projected.col_range(inner + n_conv, n_heads), wanted(".dt_bias"));
}

}  // namespace vernier::model
