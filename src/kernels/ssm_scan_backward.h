// The gradients of the Mamba-2 scan (ssm_scan.h).
#pragma once

#include <span>

#include "kernels/sequence_span.h"
#include "kernels/ssm_scan.h"

namespace vernier::kernels {

// Rows of sequences are overwritten, others left alone. x, b and c are of the inputs' type and may
// be column ranges of one matrix.
struct SsmGradients {
  AnyMatrixView x;      // [tokens, n_heads * head_dim]
  AnyMatrixView b;      // [tokens, n_groups * state_dim], summed over the heads of a group
  AnyMatrixView c;      // as b
  AnyMatrixView dt;     // [tokens, n_heads], FP32
  VectorView<float> a;  // [n_heads], ADDED to; empty: not wanted. Of a, not of A_log
  VectorView<float> d;  // as a
};

// g_y: [tokens, n_heads * head_dim], of the inputs' type. Every sequence starts from a zero state,
// and nothing depends on its last one. With G_t the gradient of the state after token t, per head:
//   G_t = exp(dt_{t+1} a) G_{t+1} + g_y_t (outer) C_t
//   g_x_t = dt_t G_t B_t + d g_y_t;   g_B_t = dt_t G_t^T x_t;   g_C_t = S_t^T g_y_t
//   g_dt_t = x_t^T G_t B_t + a e_t;   g_a = sum dt_t e_t;   e_t = exp(dt_t a) <G_t, S_{t-1}>
//   g_d = sum g_y_t . x_t
// in the chunked form, whose sums run in an order that shapes alone decide. Gradients share no
// memory with inputs. With BF16 the factors of matrix products are rounded to BF16; sums, decays,
// states and their gradients are FP32. `chunk` as for ssm_scan_chunked.
void ssm_scan_backward(const SsmShape& shape, const SsmInputs& inputs,
                       std::span<const SequenceSpan> sequences, ConstAnyMatrixView g_y,
                       const SsmGradients& gradients);

// The most memory of a device that a call with so many tokens takes beside its arguments, however
// they are cut into sequences.
int64_t ssm_scan_backward_scratch_bytes(const SsmShape& shape, int64_t n_tokens);

}  // namespace vernier::kernels
