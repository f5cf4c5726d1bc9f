// Causal grouped-query attention of one sequence over its cached keys and values.
#pragma once

#include "tensor/matrix.h"

namespace vernier::kernels {

struct AttentionShape {
  int64_t n_heads;     // query heads
  int64_t n_kv_heads;  // query head j reads kv head j / (n_heads / n_kv_heads)
  int64_t head_dim;
};

// y[t] = softmax(q[t] K^T / sqrt(head_dim)) V over positions 0 .. first_position + t; no position
// code. Never holds more than a tile of scores, so that sequences of 131,072 tokens fit.
//   q, y: [tokens, n_heads * head_dim], may be the same. k, v: [at least first_position + tokens,
//   n_kv_heads * head_dim], the sequence's cache; rows beyond are not read.
void causal_attention(const AttentionShape& shape, ConstMatrixView q, ConstMatrixView k,
                      ConstMatrixView v, int64_t first_position, MatrixView y);

}  // namespace vernier::kernels
