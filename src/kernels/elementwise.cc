// Pointwise maps over activations: checks and dispatch.
#include "kernels/elementwise.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"

namespace vernier::kernels {

void squared_relu(MatrixView x) { cpu::squared_relu(x); }

void softplus_dt(MatrixView dt, std::span<const float> bias, float low, float high) {
  VERNIER_CHECK(has_size(bias, dt.cols));
  VERNIER_CHECK(low <= high);
  cpu::softplus_dt(dt, bias, low, high);
}

void scatter_add_rows(ConstMatrixView x, std::span<const int32_t> rows,
                      std::span<const float> scale, MatrixView y) {
  VERNIER_CHECK(x.cols == y.cols);
  VERNIER_CHECK(has_size(rows, x.rows) && has_size(scale, x.rows));
  VERNIER_CHECK(all_below(rows, y.rows));
  cpu::scatter_add_rows(x, rows, scale, y);
}

void gather_rows(ConstMatrixView x, std::span<const int32_t> rows, MatrixView y) {
  VERNIER_CHECK(x.cols == y.cols);
  VERNIER_CHECK(has_size(rows, y.rows));
  VERNIER_CHECK(all_below(rows, x.rows));
  cpu::gather_rows(x, rows, y);
}

void add(ConstMatrixView x, MatrixView y) {
  VERNIER_CHECK(same_shape(x, y));
  cpu::add(x, y);
}

}  // namespace vernier::kernels
