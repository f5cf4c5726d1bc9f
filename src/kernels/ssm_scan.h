// The Mamba-2 state-space scan of one sequence, carrying its state between calls.
//
// Per head h of group g = h / (n_heads / n_groups), in FP32:
//   S <- exp(dt A) S + dt x (outer) B;   y = S C + D x,   with S in R^{head_dim x state_dim}.
#pragma once

#include <span>

#include "tensor/matrix.h"

namespace vernier::kernels {

struct SsmShape {
  int64_t n_heads;
  int64_t head_dim;
  int64_t n_groups;
  int64_t state_dim;
  int64_t chunk;  // tokens the chunked form treats at once, at most; numerics only
};

struct SsmInputs {
  ConstMatrixView x;         // [tokens, n_heads * head_dim], after convolution and SiLU
  ConstMatrixView b;         // [tokens, n_groups * state_dim]
  ConstMatrixView c;         // [tokens, n_groups * state_dim]
  ConstMatrixView dt;        // [tokens, n_heads], after softplus and clamp
  std::span<const float> a;  // [n_heads], negative: -exp(A_log)
  std::span<const float> d;  // [n_heads]
};

// state: [n_heads * head_dim, state_dim], read and overwritten. y: [tokens, n_heads * head_dim],
// distinct from the inputs. The chunked form for prefill; the same values as the recurrence to FP32
// rounding:
//   y_l = sum_{s<=l} exp(c_l - c_s) (C_l . B_s) dt_s x_s + exp(c_l) S C_l + D x_l,  c_l = sum dt A.
void ssm_scan_chunked(const SsmShape& shape, const SsmInputs& inputs, MatrixView state,
                      MatrixView y);

// The recurrence, for decoding one or a few tokens.
void ssm_scan_recurrent(const SsmShape& shape, const SsmInputs& inputs, MatrixView state,
                        MatrixView y);

}  // namespace vernier::kernels
