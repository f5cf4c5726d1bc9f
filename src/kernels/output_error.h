// What sensitivity scores ask of a linear's output and a moved one: how far every token's loss
// moves, to first order.
#pragma once

#include "tensor/any_matrix.h"

namespace vernier::kernels {

// With d = moved - y, for every token t:
//   squares[t] += sum_k (g_squares[t, k] d[t, k])^2
//   dots[t]    += sum_k g_dots[t, k] d[t, k]
// All matrices [tokens, channels], each BF16 or FP32 (host: FP32), y and moved of one type. Where a
// gradient is empty (no data), so may its sums be, and both are left out. FP32 arithmetic in a
// fixed order.
void output_error(ConstAnyMatrixView y, ConstAnyMatrixView moved, ConstAnyMatrixView g_squares,
                  ConstAnyMatrixView g_dots, VectorView<float> squares, VectorView<float> dots);

}  // namespace vernier::kernels
