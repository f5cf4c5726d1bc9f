// Pointwise maps over activations. Matrices are BF16 or FP32 (host: FP32), arithmetic is FP32.
#pragma once

#include "formats/format.h"
#include "tensor/any_matrix.h"

namespace vernier::kernels {

// y = max(x, 0)^2, in place.
void squared_relu(AnyMatrixView x);

// dt[t, h] = clamp(softplus(raw[t, h] + bias[h]), low, high); softplus(s) = s for s > 20. Source:
// the Mamba-2 reference kernels, which share the threshold. raw, dt: [tokens, heads], may be the
// same; dt is FP32.
void softplus_dt(ConstAnyMatrixView raw, VectorView<const float> bias, float low, float high,
                 AnyMatrixView dt);

// y[i] = x[rows[i]]. x and y of one type. y: [rows.size, channels].
void gather_rows(ConstAnyMatrixView x, VectorView<const int32_t> rows, AnyMatrixView y);

// y += x. y is FP32.
void add(ConstAnyMatrixView x, AnyMatrixView y);

// amax[0] = max(amax[0], max |x|), on x's device. The comparison is of bit patterns, so that a NaN
// or an infinity, once seen, stays. amax: one value, at least 0.
void accumulate_amax(ConstAnyMatrixView x, VectorView<float> amax);

// x rounded as an input of that format, in place: quantize and dequantize. Host only.
void round_input(const formats::Format& format, float scale, MatrixView x);

}  // namespace vernier::kernels
