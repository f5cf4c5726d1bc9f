#include "kernels/output_error.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace vernier::kernels {
namespace {

void check_gradient(ConstAnyMatrixView y, ConstAnyMatrixView g, VectorView<float> sums) {
  if (g.data == nullptr) return;
  VERNIER_CHECK(same_shape(y, g) && is_activation(g) && sums.size == y.rows);
  VERNIER_CHECK(same_place(y.device, {g.device, sums.device}));
}

}  // namespace

void output_error(ConstAnyMatrixView y, ConstAnyMatrixView moved, ConstAnyMatrixView g_squares,
                  ConstAnyMatrixView g_dots, VectorView<float> squares, VectorView<float> dots) {
  VERNIER_CHECK(same_shape(y, moved) && is_activation(y) && y.dtype == moved.dtype);
  VERNIER_CHECK(same_place(y.device, {moved.device}));
  check_gradient(y, g_squares, squares);
  check_gradient(y, g_dots, dots);
  if (y.device != nullptr) return cuda::output_error(y, moved, g_squares, g_dots, squares, dots);
  cpu::output_error(y.host(), moved.host(), g_squares.host(), g_dots.host(), squares.host(),
                    dots.host());
}

}  // namespace vernier::kernels
