// Weights as encoders see them: BF16, whatever the checkpoint stores.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace vernier::formats {

// Elements [first, first + count) of a BF16, F16 or F32 tensor as BF16 codes: a pointer into the
// tensor where it is BF16, else they are rounded into `buffer` [count].
const uint16_t* bf16_elems(const TensorView& tensor, int64_t first, int64_t count,
                           uint16_t* buffer);

}  // namespace vernier::formats
