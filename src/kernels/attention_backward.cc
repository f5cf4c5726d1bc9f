// Gradients of causal attention: checks and dispatch.
#include "kernels/attention_backward.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace vernier::kernels {

void causal_attention_backward(const AttentionShape& shape, ConstAnyMatrixView q,
                               ConstAnyMatrixView k, ConstAnyMatrixView v, ConstAnyMatrixView y,
                               std::span<const SequenceSpan> sequences, ConstAnyMatrixView g_y,
                               AnyMatrixView g_q, AnyMatrixView g_k, AnyMatrixView g_v) {
  VERNIER_CHECK(shape.n_kv_heads > 0 && shape.n_heads % shape.n_kv_heads == 0);
  VERNIER_CHECK(shape.head_dim > 0 && shape.k_scale == 1 && shape.v_scale == 1);
  VERNIER_CHECK(q.cols == shape.n_heads * shape.head_dim && is_activation(q));
  VERNIER_CHECK(has_shape(k, q.rows, shape.n_kv_heads * shape.head_dim));
  for (const ConstAnyMatrixView& each : {y, g_y, ConstAnyMatrixView(g_q)}) {
    VERNIER_CHECK(same_shape(each, q));
  }
  for (const ConstAnyMatrixView& each : {v, ConstAnyMatrixView(g_k), ConstAnyMatrixView(g_v)}) {
    VERNIER_CHECK(same_shape(each, k));
  }
  for (const ConstAnyMatrixView& each :
       {k, v, y, g_y, ConstAnyMatrixView(g_q), ConstAnyMatrixView(g_k), ConstAnyMatrixView(g_v)}) {
    VERNIER_CHECK(each.dtype == q.dtype && same_place(q.device, {each.device}));
  }
  VERNIER_CHECK(all_within(sequences, q.rows));
  const AttentionBackward op{shape, q, k, v, y, g_y, g_q, g_k, g_v};
  if (q.device != nullptr) return cuda::causal_attention_backward(op, sequences);
  cpu::causal_attention_backward(op, sequences);
}

}  // namespace vernier::kernels
