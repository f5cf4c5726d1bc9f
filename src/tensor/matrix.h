// FP32 matrices in host memory, the form in which activations travel: [rows, cols], rows possibly
// further apart than cols. Views, cheap to copy.
#pragma once

#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "base/check.h"

namespace vernier {

template <class T>
struct MatrixViewOf {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;  // in elements, at least cols

  MatrixViewOf() = default;
  MatrixViewOf(T* data, int64_t rows, int64_t cols) : MatrixViewOf(data, rows, cols, cols) {}
  MatrixViewOf(T* data, int64_t rows, int64_t cols, int64_t row_stride)
      : data(data), rows(rows), cols(cols), row_stride(row_stride) {}
  // A mutable view is a read-only one.
  template <class U>
  requires(std::is_same_v<const U, T>) MatrixViewOf(const MatrixViewOf<U>& other)
      : MatrixViewOf(other.data, other.rows, other.cols, other.row_stride) {}

  std::span<T> row(int64_t index) const {
    VERNIER_DCHECK(index >= 0 && index < rows);
    return {data + index * row_stride, static_cast<size_t>(cols)};
  }
  MatrixViewOf row_range(int64_t first, int64_t n_rows) const {
    VERNIER_DCHECK(first >= 0 && first + n_rows <= rows);
    return {data + first * row_stride, n_rows, cols, row_stride};
  }
  MatrixViewOf col_range(int64_t first, int64_t n_cols) const {
    VERNIER_DCHECK(first >= 0 && first + n_cols <= cols);
    return {data + first, rows, n_cols, row_stride};
  }
};

using MatrixView = MatrixViewOf<float>;
using ConstMatrixView = MatrixViewOf<const float>;

// An owned contiguous FP32 matrix, zero-initialized.
class Matrix {
 public:
  Matrix() = default;
  Matrix(int64_t rows, int64_t cols)
      : rows_(rows), cols_(cols), values_(static_cast<size_t>(rows * cols)) {}

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  std::span<float> values() { return values_; }
  std::span<const float> values() const { return values_; }

  operator MatrixView() { return {values_.data(), rows_, cols_}; }
  operator ConstMatrixView() const { return {values_.data(), rows_, cols_}; }
  MatrixView view() { return *this; }
  ConstMatrixView view() const { return *this; }

 private:
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  std::vector<float> values_;
};

}  // namespace vernier
