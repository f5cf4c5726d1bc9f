// Root-mean-square norms: the plain one of every block, and Mamba-2's gated, grouped one.
#pragma once

#include <span>

#include "tensor/matrix.h"

namespace vernier::kernels {

// y[t, c] = w[c] * x[t, c] / sqrt(mean_c(x[t]^2) + eps). One rounding of the product; FP32
// throughout. x, y: [tokens, channels]; y may be x.
void rms_norm(ConstMatrixView x, std::span<const float> weight, float eps, MatrixView y);

// Gate first, then norm: q = x * silu(gate); each of the n_groups contiguous groups of channels is
// normalized by its own mean square, then multiplied by the weight. x, gate, y: [tokens, channels];
// y may be x. REQUIRES: channels % n_groups == 0.
void gated_group_norm(ConstMatrixView x, ConstMatrixView gate, std::span<const float> weight,
                      int64_t n_groups, float eps, MatrixView y);

}  // namespace vernier::kernels
