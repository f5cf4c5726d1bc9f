// Linear layers: checks and dispatch.
#include "kernels/linear.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"

namespace vernier::kernels {

void linear(ConstMatrixView x, const formats::PackedView& weight, MatrixView y) {
  VERNIER_CHECK(weight.format != nullptr);
  VERNIER_CHECK(x.cols == weight.k && has_shape(y, x.rows, weight.n));
  cpu::linear(x, weight, y);
}

void linear(ConstMatrixView x, ConstMatrixView weight, MatrixView y) {
  VERNIER_CHECK(x.cols == weight.cols && has_shape(y, x.rows, weight.rows));
  cpu::linear(x, weight, y);
}

void embed(std::span<const int32_t> ids, const formats::PackedView& weight, MatrixView y) {
  VERNIER_CHECK(weight.format != nullptr);
  VERNIER_CHECK(has_shape(y, static_cast<int64_t>(ids.size()), weight.k));
  VERNIER_CHECK(all_below(ids, weight.n));
  cpu::embed(ids, weight, y);
}

}  // namespace vernier::kernels
