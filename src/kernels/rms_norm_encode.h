// The norm of a block whose linears code their input: one pass instead of two.
#pragma once

#include "kernels/linear.h"
#include "tensor/any_matrix.h"

namespace vernier::kernels {

// codes = what a linear with this rule makes of rms_norm(x, weight, eps) before its product
// (InputCodes), bit for bit: a normed value is rounded to the type of activations there, then
// coded. A rule without a format codes nothing: rms_norm. x: FP32 [tokens, channels]. codes:
// [tokens, channels], contiguous, of the type that input_codes gives; on the host it may be x.
void rms_norm_encode(ConstAnyMatrixView x, VectorView<const float> weight, float eps,
                     const InputRule& rule, AnyMatrixView codes);

}  // namespace vernier::kernels
