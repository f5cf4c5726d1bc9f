// Causal attention: checks and dispatch.
#include "kernels/attention.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"

namespace vernier::kernels {

void causal_attention(const AttentionShape& shape, ConstMatrixView q, ConstMatrixView k,
                      ConstMatrixView v, int64_t first_position, MatrixView y) {
  VERNIER_CHECK(shape.n_kv_heads > 0 && shape.n_heads % shape.n_kv_heads == 0);
  VERNIER_CHECK(shape.head_dim > 0 && first_position >= 0);
  VERNIER_CHECK(q.cols == shape.n_heads * shape.head_dim && same_shape(y, q));
  VERNIER_CHECK(k.cols == shape.n_kv_heads * shape.head_dim && v.cols == k.cols);
  VERNIER_CHECK(k.rows >= first_position + q.rows && v.rows >= first_position + q.rows);
  cpu::causal_attention(shape, q, k, v, first_position, y);
}

}  // namespace vernier::kernels
