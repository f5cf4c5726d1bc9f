// Root-mean-square norms: the plain one of every block, and Mamba-2's gated, grouped one.
#pragma once

#include "tensor/any_matrix.h"

namespace vernier::kernels {

// y[t, c] = w[c] * x[t, c] / sqrt(mean_c(x[t]^2) + eps). One rounding of the product; FP32
// throughout. x, y: [tokens, channels], each BF16 or FP32 (host: FP32); y may be x.
void rms_norm(ConstAnyMatrixView x, VectorView<const float> weight, float eps, AnyMatrixView y);

// Gate first, then norm: q = x * silu(gate); each of the n_groups contiguous groups of channels is
// normalized by its own mean square, then multiplied by the weight. x, gate, y: [tokens, channels],
// of one type; y may be x. FP32 arithmetic. REQUIRES: channels % n_groups == 0.
void gated_group_norm(ConstAnyMatrixView x, ConstAnyMatrixView gate, VectorView<const float> weight,
                      int64_t n_groups, float eps, AnyMatrixView y);

}  // namespace vernier::kernels
