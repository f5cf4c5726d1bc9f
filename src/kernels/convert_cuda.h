// Conversions of activations between BF16 and FP32.
#pragma once

#include "tensor/any_matrix.h"

namespace vernier::kernels::cuda {

// to = from, of one shape, each BF16 or FP32; rounded to nearest.
void convert(ConstAnyMatrixView from, AnyMatrixView to);

// A matrix in `dtype`: itself, or its conversion, which `scratch` then holds.
ConstAnyMatrixView as_dtype(ConstAnyMatrixView matrix, DType dtype, AnyMatrix& scratch);

}  // namespace vernier::kernels::cuda
