// Causal grouped-query attention of several sequences, each over its cached keys and values.
#pragma once

#include <span>

#include "tensor/any_matrix.h"

namespace vernier::kernels {

struct AttentionShape {
  int64_t n_heads;     // query heads
  int64_t n_kv_heads;  // query head j reads kv head j / (n_heads / n_kv_heads)
  int64_t head_dim;
  // What cached values are multiplied by; other than 1 only for caches of codes on a device.
  float k_scale = 1;
  float v_scale = 1;
};

// Rows [first_row, first_row + n_rows) of q and y are a sequence's next tokens, at the positions
// from first_position on. k, v: [at least first_position + n_rows, n_kv_heads * head_dim], its
// cache, the new tokens' rows included; rows beyond are not read.
struct AttentionSequence {
  int64_t first_row;
  int64_t n_rows;
  int64_t first_position;
  ConstAnyMatrixView k;
  ConstAnyMatrixView v;
};

// y[t] = softmax(q[t] K^T k_scale / sqrt(head_dim)) V v_scale over positions 0 .. first_position +
// t; no position code. Never holds more than a tile of scores, so that sequences of 131,072 tokens
// fit.
//   q, y: [tokens, n_heads * head_dim], may be the same. Host: all FP32. Device: q and y of one
//   type, BF16 or FP32; the caches all of one type, that one or F8_E4M3. FP32 sums and softmax;
//   with BF16 the weights of the softmax are rounded to BF16 before they meet V.
void causal_attention(const AttentionShape& shape, ConstAnyMatrixView q,
                      std::span<const AttentionSequence> sequences, AnyMatrixView y);

}  // namespace vernier::kernels
