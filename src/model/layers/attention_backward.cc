// Backward of causal attention and its four projections.
#include "kernels/attention_backward.h"

#include <vector>

#include "kernels/elementwise.h"
#include "model/layers/attention.h"
#include "model/layers/gradient_set.h"
#include "model/whole_output.h"

namespace vernier::model {
namespace {

// Whole sequences over their own keys and values.
std::vector<kernels::AttentionSequence> whole(std::span<const kernels::SequenceSpan> sequences,
                                              ConstAnyMatrixView k, ConstAnyMatrixView v) {
  std::vector<kernels::AttentionSequence> attended;
  for (const kernels::SequenceSpan& sequence : sequences) {
    attended.push_back({sequence.first_row, sequence.n_rows, 0,
                        k.row_range(sequence.first_row, sequence.n_rows),
                        v.row_range(sequence.first_row, sequence.n_rows)});
  }
  return attended;
}

}  // namespace

void Attention::backward(ConstAnyMatrixView u, std::span<const kernels::SequenceSpan> sequences,
                         Gradients g_y, GradientHook* hook, Gradients g_u) const {
  VERNIER_CHECK(weights_.kv_rule.format == nullptr);
  const int64_t n_tokens = u.rows;
  AnyMatrix q = new_activation(n_tokens, weights_.q_proj.n(), device_);
  AnyMatrix k = new_activation(n_tokens, weights_.k_proj.n(), device_);
  AnyMatrix v = new_activation(n_tokens, weights_.v_proj.n(), device_);
  weights_.q_proj.forward(u, nullptr, q);
  weights_.k_proj.forward(u, nullptr, k);
  weights_.v_proj.forward(u, nullptr, v);
  AnyMatrix attended = new_activation(n_tokens, q.cols(), device_);
  kernels::causal_attention(shape_, q, whole(sequences, k, v), attended);
  AnyMatrix y;
  if (hook != nullptr && hook->wants_outputs()) {
    y = AnyMatrix(n_tokens, weights_.o_proj.n(), DType::kF32, device_);
    weights_.o_proj.forward(attended, nullptr, y);
  }

  const size_t n_losses = g_y.size();
  const auto new_set = [&](int64_t width) {
    return GradientSet::of_activation(n_losses, n_tokens, width, device_);
  };
  const GradientSet g_attended = new_set(q.cols());
  weights_.o_proj.backward(attended, y, g_y, hook, g_attended);
  const GradientSet g_q = new_set(q.cols());
  const GradientSet g_k = new_set(k.cols());
  const GradientSet g_v = new_set(v.cols());
  for (size_t loss = 0; loss < n_losses; ++loss) {
    kernels::causal_attention_backward(shape_, q, k, v, attended, sequences, g_attended[loss],
                                       g_q[loss], g_k[loss], g_v[loss]);
  }
  weights_.q_proj.backward(u, q, g_q, hook, g_u);
  backward_kv(weights_.k_proj, u, k, g_k, hook, g_u);
  backward_kv(weights_.v_proj, u, v, g_v, hook, g_u);
}

void Attention::backward_kv(const LinearSite& projection, ConstAnyMatrixView u,
                            ConstAnyMatrixView y, Gradients g_y, GradientHook* hook,
                            Gradients g_u) const {
  const GradientSet part(g_y.size(), u.rows, u.cols, DType::kF32, device_);
  const Module& module = projection.module();
  const comm::Share holder =
      holder_of_outputs(module.tensors.front().cut, {tensor_.rank(), tensor_.size()});
  if (holder.count == 1) {
    projection.backward(u, y, g_y, hook, part);
    return add(part, g_u);
  }
  // Ranks that hold a head in common have the gradients that their own queries give it.
  const GradientSet whole(g_y.size(), u.rows, module.n, DType::kF32, device_);
  const comm::Range here = own_outputs(module, tensor_);
  std::vector<AnyMatrixView> own;
  for (size_t loss = 0; loss < g_y.size(); ++loss) {
    gather_outputs(g_y[loss], module, tensor_, whole[loss]);
    own.push_back(whole[loss].col_range(here.begin, here.size()));
  }
  if (holder.index > 0) return projection.show(u, y, own, hook);
  projection.backward(u, y, own, hook, part);
  add(part, g_u);
}

}  // namespace vernier::model
