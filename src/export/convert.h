// Floating tensors in another floating type, for `--dtype`.
#pragma once

#include <string_view>

#include "tensor/tensor.h"

namespace vernier::exporting {

// Rounds to nearest, ties to even. REQUIRES: BF16, F16 or F32 on both sides. Throws InvalidArgument
// naming the tensor when a finite value is beyond the target's range.
Tensor convert_floats(const TensorView& tensor, DType dtype, std::string_view name);

}  // namespace vernier::exporting
