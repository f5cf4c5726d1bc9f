// NVFP4 weights by NVFP4 inputs on tensor cores that take both as they are stored: compute
// capability 10 and later. Compiled, and the layout of scales tested (nvfp4_layout_test.cc), but
// never run on such a device: no number of ours comes from here.
#pragma once

#include "kernels/linear.h"

namespace vernier::kernels::cuda {

// Whether the device, the formats and the shape allow it.
bool takes_block_scaled(const formats::PackedView& weight, const InputRule& rule);

// y = alpha codes(x) codes(weight)^T, codes times their block scales.
// False where cuBLASLt has no algorithm: y is untouched. REQUIRES: takes_block_scaled.
[[nodiscard]] bool block_scaled_linear(ConstAnyMatrixView x, const formats::PackedView& weight,
                                       const formats::InputCoding& coding, float alpha,
                                       AnyMatrixView y);

}  // namespace vernier::kernels::cuda
