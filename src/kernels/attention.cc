// Causal attention: checks and dispatch.
#include "kernels/attention.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace vernier::kernels {

void causal_attention(const AttentionShape& shape, ConstAnyMatrixView q,
                      std::span<const AttentionSequence> sequences, AnyMatrixView y) {
  VERNIER_CHECK(shape.n_kv_heads > 0 && shape.n_heads % shape.n_kv_heads == 0);
  VERNIER_CHECK(shape.head_dim > 0);
  VERNIER_CHECK(q.cols == shape.n_heads * shape.head_dim && same_shape(y, q));
  VERNIER_CHECK(is_activation(y) && same_place(y.device, {q.device}));
  VERNIER_CHECK(q.dtype == y.dtype || (q.dtype == DType::kF8E4M3 && q.device != nullptr));
  VERNIER_CHECK(all_within(sequences, q.rows));
  for (const AttentionSequence& sequence : sequences) {
    const int64_t n_keys = sequence.first_position + sequence.n_rows;
    VERNIER_CHECK(sequence.first_position >= 0);
    VERNIER_CHECK(sequence.k.cols == shape.n_kv_heads * shape.head_dim);
    VERNIER_CHECK(sequence.v.cols == sequence.k.cols);
    VERNIER_CHECK(sequence.k.dtype == q.dtype && sequence.v.dtype == q.dtype);
    VERNIER_CHECK(sequence.k.rows >= n_keys && sequence.v.rows >= n_keys);
    VERNIER_CHECK(same_place(y.device, {sequence.k.device, sequence.v.device}));
  }
  if (y.device != nullptr) return cuda::causal_attention(shape, q, sequences, y);
  VERNIER_CHECK(shape.k_scale == 1 && shape.v_scale == 1);
  for (const auto& [first_row, n_rows, first_position, k, v] : sequences) {
    cpu::causal_attention(shape, q.row_range(first_row, n_rows).host(), k.host(), v.host(),
                          first_position, y.row_range(first_row, n_rows).host());
  }
}

}  // namespace vernier::kernels
