#include "kernels/reference.h"

namespace vernier::kernels::ref {

void output_error(ConstMatrixView y, ConstMatrixView moved, ConstMatrixView g_squares,
                  ConstMatrixView g_dots, std::span<float> squares, std::span<float> dots) {
  for (int64_t t = 0; t < y.rows; ++t) {
    double square = 0;
    double dot = 0;
    for (int64_t k = 0; k < y.cols; ++k) {
      const double d = static_cast<double>(moved.row(t)[k]) - y.row(t)[k];
      if (g_squares.data != nullptr) square += g_squares.row(t)[k] * d * g_squares.row(t)[k] * d;
      if (g_dots.data != nullptr) dot += g_dots.row(t)[k] * d;
    }
    if (g_squares.data != nullptr) squares[t] = static_cast<float>(squares[t] + square);
    if (g_dots.data != nullptr) dots[t] = static_cast<float>(dots[t] + dot);
  }
}

}  // namespace vernier::kernels::ref
