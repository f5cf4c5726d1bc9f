// Gradients of pointwise maps (elementwise.h). Arithmetic is FP32.
#pragma once

#include "tensor/any_matrix.h"

namespace vernier::kernels {

// g *= 2 max(x, 0), in place; x is the value before the squared ReLU. Of one type, BF16 or FP32
// (host: FP32).
void squared_relu_backward(ConstAnyMatrixView x, AnyMatrixView g);

// With s = raw + bias and dt = clamp(softplus(s), low, high) as softplus_dt computes it:
//   g_raw = g_dt f where low <= softplus(s) <= high, else 0;   f = sigmoid(s), 1 for s > 20;
//   g_bias += sum_t of the same, before it is rounded.
// raw, g_raw: [tokens, heads], of one type, BF16 or FP32 (host: FP32); g_raw is overwritten and may
// be raw. g_dt: FP32 [tokens, heads]. g_bias: [heads], added to, or empty: not wanted.
void softplus_dt_backward(ConstAnyMatrixView raw, VectorView<const float> bias, float low,
                          float high, ConstAnyMatrixView g_dt, AnyMatrixView g_raw,
                          VectorView<float> g_bias);

}  // namespace vernier::kernels
