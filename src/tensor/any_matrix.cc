#include "tensor/any_matrix.h"

#include <bit>

namespace vernier {
namespace {

float from_bf16(uint16_t code) { return std::bit_cast<float>(static_cast<uint32_t>(code) << 16); }

}  // namespace

AnyMatrix new_activation(int64_t rows, int64_t cols, Device* device) {
  return {rows, cols, compute_dtype(device), device};
}

AnyMatrix new_zeros(int64_t rows, int64_t cols, Device* device) {
  AnyMatrix matrix(rows, cols, DType::kF32, device);
  fill_zero(matrix.view().data, device, matrix.size_bytes());
  return matrix;
}

void copy_matrix(ConstAnyMatrixView from, AnyMatrixView to) {
  VERNIER_CHECK(from.rows == to.rows && from.cols == to.cols && from.dtype == to.dtype);
  const bool is_contiguous = from.row_stride == from.cols && to.row_stride == to.cols;
  const int64_t n_pieces = is_contiguous ? 1 : from.rows;
  if (n_pieces == 0) return;
  const int64_t bytes = from.rows / n_pieces * from.cols * from.elem_bytes();
  for (int64_t piece = 0; piece < n_pieces; ++piece) {
    copy_bytes(to.row_range(piece, 0).data, to.device, from.row_range(piece, 0).data, from.device,
               bytes);
  }
}

AnyMatrix to_device(ConstMatrixView matrix, Device* device) {
  AnyMatrix copy(matrix.rows, matrix.cols, DType::kF32, device);
  copy_matrix(matrix, copy);
  return copy;
}

Matrix to_host(ConstAnyMatrixView matrix) {
  Matrix host(matrix.rows, matrix.cols);
  if (matrix.dtype == DType::kF32) {
    copy_matrix(matrix, host);
    return host;
  }
  VERNIER_CHECK(matrix.dtype == DType::kBF16);
  AnyMatrix codes(matrix.rows, matrix.cols, DType::kBF16, nullptr);
  copy_matrix(matrix, codes);
  const uint16_t* code = codes.view().as<uint16_t>();
  for (float& value : host.values()) value = from_bf16(*code++);
  return host;
}

}  // namespace vernier
