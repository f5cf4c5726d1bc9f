// Gradients of causal grouped-query attention.
#pragma once

#include <span>

#include "kernels/attention.h"
#include "kernels/sequence_span.h"
#include "tensor/any_matrix.h"

namespace vernier::kernels {

// From g_y = dLoss/dy of y = causal_attention(q, k, v), whole sequences with first_position 0:
//   P = softmax(q k^T / sqrt(head_dim)),   D[t] = sum(g_y[t] * y[t]) of each head,
//   S' = P * (g_y v^T - D) / sqrt(head_dim),
//   g_q = S' k,   g_k = S'^T q,   g_v = P^T g_y,
// the last two summed over the query heads of a kv head, in a fixed order. Never holds more than
// tiles of P and S', which are computed twice. Source: Dao et al., FlashAttention, section 3.1.
//   q, y, g_y, g_q: [tokens, n_heads * head_dim]. k, v, g_k, g_v: [tokens, n_kv_heads * head_dim].
//   All of one activation type, with FP32 sums and softmax; in BF16 P and S' are rounded to BF16.
//   g_q, g_k, g_v are overwritten where a sequence has rows, and left elsewhere; they share no
//   memory with each other and the inputs. REQUIRES: sequences do not overlap, scales of 1.
void causal_attention_backward(const AttentionShape& shape, ConstAnyMatrixView q,
                               ConstAnyMatrixView k, ConstAnyMatrixView v, ConstAnyMatrixView y,
                               std::span<const SequenceSpan> sequences, ConstAnyMatrixView g_y,
                               AnyMatrixView g_q, AnyMatrixView g_k, AnyMatrixView g_v);

// The same arguments, as the implementations take them.
struct AttentionBackward {
  AttentionShape shape;
  ConstAnyMatrixView q, k, v, y, g_y;
  AnyMatrixView g_q, g_k, g_v;
};

}  // namespace vernier::kernels
