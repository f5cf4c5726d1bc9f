// The Mamba-2 state-space scan of several sequences, each carrying its state between calls.
//
// Per head h of group g = h / (n_heads / n_groups), in FP32:
//   S <- exp(dt A) S + dt x (outer) B;   y = S C + D x,   with S in R^{head_dim x state_dim}.
#pragma once

#include <span>

#include "tensor/any_matrix.h"

namespace vernier::kernels {

struct SsmShape {
  int64_t n_heads;
  int64_t head_dim;
  int64_t n_groups;
  int64_t state_dim;
  int64_t chunk;  // tokens the chunked form treats at once, at most; numerics only
};

struct SsmInputs {
  ConstAnyMatrixView x;       // [tokens, n_heads * head_dim], after convolution and SiLU
  ConstAnyMatrixView b;       // [tokens, n_groups * state_dim]
  ConstAnyMatrixView c;       // [tokens, n_groups * state_dim]
  ConstAnyMatrixView dt;      // [tokens, n_heads], FP32, after softplus and clamp
  VectorView<const float> a;  // [n_heads], negative: -exp(A_log)
  VectorView<const float> d;  // [n_heads]
};

// Rows [first_row, first_row + n_rows) are a sequence's next tokens. state: FP32 [n_heads *
// head_dim, state_dim], read and overwritten.
struct ScanSequence {
  int64_t first_row;
  int64_t n_rows;
  AnyMatrixView state;
};

// y: [tokens, n_heads * head_dim], distinct from the inputs; x, b, c and y of one type (device:
// BF16 or FP32). The chunked form for prefill; the same values as the recurrence to FP32 rounding:
//   y_l = sum_{s<=l} exp(c_l - c_s) (C_l . B_s) dt_s x_s + exp(c_l) S C_l + D x_l,  c_l = sum dt A.
// With BF16 the factors of matrix products are rounded to BF16, sums, decays and the state are
// FP32.
void ssm_scan_chunked(const SsmShape& shape, const SsmInputs& inputs,
                      std::span<const ScanSequence> sequences, AnyMatrixView y);

// The recurrence, for decoding one or a few tokens. FP32 arithmetic whatever the types.
void ssm_scan_recurrent(const SsmShape& shape, const SsmInputs& inputs,
                        std::span<const ScanSequence> sequences, AnyMatrixView y);

}  // namespace vernier::kernels
