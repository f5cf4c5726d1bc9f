// y = x W^T over the whole decoded weight, in double.
#include "kernels/reference.h"

namespace vernier::kernels::ref {
namespace {

Matrix decoded(const formats::PackedView& weight) {
  Matrix rows(weight.n, weight.k);
  weight.format->decode_rows(weight, 0, weight.n, rows.values().data());
  return rows;
}

}  // namespace

void linear(ConstMatrixView x, ConstMatrixView weight, MatrixView y) {
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t n = 0; n < weight.rows; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < x.cols; ++k) sum += double{x.row(t)[k]} * weight.row(n)[k];
      y.row(t)[n] = static_cast<float>(sum);
    }
  }
}

void linear(ConstMatrixView x, const formats::PackedView& weight, MatrixView y) {
  ref::linear(x, decoded(weight), y);
}

void embed(std::span<const int32_t> ids, const formats::PackedView& weight, MatrixView y) {
  ref::gather_rows(decoded(weight), ids, y);
}

}  // namespace vernier::kernels::ref
