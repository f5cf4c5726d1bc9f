// g_x = g_y W and g_W += g_y^T x, in double.
#include "kernels/reference.h"

namespace vernier::kernels::ref {

void linear_input_gradient(ConstMatrixView g_y, ConstMatrixView weight, MatrixView g_x) {
  for (int64_t t = 0; t < g_x.rows; ++t) {
    for (int64_t k = 0; k < g_x.cols; ++k) {
      double sum = 0;
      for (int64_t n = 0; n < g_y.cols; ++n) sum += double{g_y.row(t)[n]} * weight.row(n)[k];
      g_x.row(t)[k] = static_cast<float>(sum);
    }
  }
}

void linear_weight_gradient(ConstMatrixView g_y, ConstMatrixView x, MatrixView g_weight) {
  for (int64_t n = 0; n < g_weight.rows; ++n) {
    for (int64_t k = 0; k < g_weight.cols; ++k) {
      double sum = g_weight.row(n)[k];
      for (int64_t t = 0; t < x.rows; ++t) sum += double{g_y.row(t)[n]} * x.row(t)[k];
      g_weight.row(n)[k] = static_cast<float>(sum);
    }
  }
}

}  // namespace vernier::kernels::ref
