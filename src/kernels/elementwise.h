// Pointwise maps over activations.
#pragma once

#include <span>

#include "tensor/matrix.h"

namespace vernier::kernels {

// y = max(x, 0)^2, in place.
void squared_relu(MatrixView x);

// dt[t, h] = clamp(softplus(dt[t, h] + bias[h]), low, high), in place; softplus(s) = s for s > 20.
// Source: the Mamba-2 reference kernels, which share the threshold. dt: [tokens, heads].
void softplus_dt(MatrixView dt, std::span<const float> bias, float low, float high);

// y[t] += scale[t] * x[t]; rows of y named by `rows` (distinct). x: [rows.size(), channels].
void scatter_add_rows(ConstMatrixView x, std::span<const int32_t> rows,
                      std::span<const float> scale, MatrixView y);

// y[i] = x[rows[i]]. y: [rows.size(), channels].
void gather_rows(ConstMatrixView x, std::span<const int32_t> rows, MatrixView y);

// y += x.
void add(ConstMatrixView x, MatrixView y);

}  // namespace vernier::kernels
