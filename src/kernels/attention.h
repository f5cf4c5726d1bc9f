// Causal grouped-query attention of several sequences, each over its cached keys and values.
#pragma once

#include <span>

#include "tensor/any_matrix.h"

namespace vernier::kernels {

struct AttentionShape {
  int64_t n_heads;     // query heads
  int64_t n_kv_heads;  // query head j reads kv head j / (n_heads / n_kv_heads)
  int64_t head_dim;
  // What cached keys and values are multiplied by; other than 1 only for caches of codes on a
  // device.
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
//   q, y: [tokens, n_heads * head_dim]. Host: all FP32. Device: y BF16 or FP32; q and all caches of
//   y's type, or all F8_E4M3, q then with scale 1. q and y may be the same where their types are.
//   FP32 sums and softmax. With y in BF16 products run on tensor cores: Q K^T of codes in FP8,
//   whose sums keep about 14 bits, and P V in BF16, to which the softmax's weights P are rounded.
void causal_attention(const AttentionShape& shape, ConstAnyMatrixView q,
                      std::span<const AttentionSequence> sequences, AnyMatrixView y);

}  // namespace vernier::kernels
