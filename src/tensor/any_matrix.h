// Matrices on any device, of any type an activation may have: what the ops take. A host FP32 matrix
// (tensor/matrix.h) is one of them and converts without a word; a kernel takes the pointer it
// knows.
#pragma once

#include <span>
#include <type_traits>
#include <vector>

#include "tensor/matrix.h"
#include "tensor/tensor.h"

namespace vernier {

// [rows, cols] with row_stride elements between rows. `Void` is void or const void.
template <class Void>
struct AnyMatrixViewOf {
  template <class T>
  using As = std::conditional_t<std::is_const_v<Void>, const T, T>;

  Void* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;
  DType dtype = DType::kF32;
  Device* device = nullptr;

  AnyMatrixViewOf() = default;
  AnyMatrixViewOf(Void* data, int64_t rows, int64_t cols, int64_t row_stride, DType dtype,
                  Device* device)
      : data(data), rows(rows), cols(cols), row_stride(row_stride), dtype(dtype), device(device) {}
  template <class T>
  requires(std::is_convertible_v<T*, Void*>) AnyMatrixViewOf(const MatrixViewOf<T>& host)
      : AnyMatrixViewOf(host.data, host.rows, host.cols, host.row_stride, DType::kF32, nullptr) {}
  template <class Other>
  requires(std::is_same_v<const Other, Void>) AnyMatrixViewOf(const AnyMatrixViewOf<Other>& other)
      : AnyMatrixViewOf(other.data, other.rows, other.cols, other.row_stride, other.dtype,
                        other.device) {}
  AnyMatrixViewOf(Matrix& host) : AnyMatrixViewOf(host.view()) {}
  AnyMatrixViewOf(const Matrix& host) requires(std::is_const_v<Void>)
      : AnyMatrixViewOf(host.view()) {}

  // REQUIRES: T has the width of dtype.
  template <class T>
  As<T>* as() const {
    VERNIER_DCHECK(static_cast<int>(sizeof(T)) * 8 == dtype_info(dtype).bits);
    return static_cast<As<T>*>(data);
  }
  // REQUIRES: FP32 in host memory.
  MatrixViewOf<As<float>> host() const {
    VERNIER_CHECK(device == nullptr && dtype == DType::kF32);
    return {static_cast<As<float>*>(data), rows, cols, row_stride};
  }

  int64_t elem_bytes() const { return dtype_info(dtype).bits / 8; }
  AnyMatrixViewOf row_range(int64_t first, int64_t n_rows) const {
    VERNIER_DCHECK(first >= 0 && first + n_rows <= rows);
    return {offset(first * row_stride), n_rows, cols, row_stride, dtype, device};
  }
  AnyMatrixViewOf col_range(int64_t first, int64_t n_cols) const {
    VERNIER_DCHECK(first >= 0 && first + n_cols <= cols);
    return {offset(first), rows, n_cols, row_stride, dtype, device};
  }

 private:
  Void* offset(int64_t elems) const {
    return static_cast<As<std::byte>*>(data) + elems * elem_bytes();
  }
};

using AnyMatrixView = AnyMatrixViewOf<void>;
using ConstAnyMatrixView = AnyMatrixViewOf<const void>;

// An owned contiguous matrix, not initialized.
class AnyMatrix {
 public:
  AnyMatrix() = default;
  AnyMatrix(int64_t rows, int64_t cols, DType dtype, Device* device)
      : rows_(rows), cols_(cols), values_(dtype, {rows, cols}, device) {}

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  DType dtype() const { return values_.dtype(); }
  Device* device() const { return values_.device(); }
  int64_t size_bytes() const { return values_.view().size_bytes(); }

  AnyMatrixView view() { return {values_.data(), rows_, cols_, cols_, dtype(), device()}; }
  ConstAnyMatrixView view() const {
    return {values_.view().data, rows_, cols_, cols_, dtype(), device()};
  }
  operator AnyMatrixView() { return view(); }
  operator ConstAnyMatrixView() const { return view(); }

 private:
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  Tensor values_;
};

// [rows, cols] of the device's compute type, on the device.
AnyMatrix new_activation(int64_t rows, int64_t cols, Device* device);
// FP32 zeros.
AnyMatrix new_zeros(int64_t rows, int64_t cols, Device* device);

// Copies between matrices of one shape and type, from any device to any. Waits where a copy to the
// host does.
void copy_matrix(ConstAnyMatrixView from, AnyMatrixView to);
// A copy of an FP32 host matrix there, and of an FP32 or BF16 matrix in FP32 here.
AnyMatrix to_device(ConstMatrixView matrix, Device* device);
Matrix to_host(ConstAnyMatrixView matrix);

// n values in host or device memory: weights of a norm, token indexes.
template <class T>
struct VectorView {
  T* data = nullptr;
  int64_t size = 0;
  Device* device = nullptr;

  VectorView() = default;
  VectorView(T* data, int64_t size, Device* device) : data(data), size(size), device(device) {}
  VectorView(std::span<T> host) : VectorView(host.data(), std::ssize(host), nullptr) {}
  VectorView(const std::vector<std::remove_const_t<T>>& host) requires(std::is_const_v<T>)
      : VectorView(host.data(), std::ssize(host), nullptr) {}
  template <class U>
  requires(std::is_same_v<const U, T>) VectorView(const VectorView<U>& other)
      : VectorView(other.data, other.size, other.device) {}

  bool empty() const { return size == 0; }
  // REQUIRES: host memory.
  std::span<T> host() const {
    VERNIER_CHECK(device == nullptr);
    return {data, static_cast<size_t>(size)};
  }
  VectorView part(int64_t first, int64_t n) const {
    VERNIER_DCHECK(first >= 0 && first + n <= size);
    return {data + first, n, device};
  }
};

// An owned vector, not initialized. T: float or int32_t.
template <class T>
class Vector {
 public:
  Vector() = default;
  Vector(int64_t size, Device* device) : values_(kDType, {size}, device), size_(size) {}
  Vector(std::span<const T> host, Device* device) : Vector(std::ssize(host), device) {
    copy_bytes(values_.data(), device, host.data(), nullptr, values_.view().size_bytes());
  }

  int64_t size() const { return size_; }
  VectorView<T> view() { return {reinterpret_cast<T*>(values_.data()), size_, values_.device()}; }
  VectorView<const T> view() const {
    return {reinterpret_cast<const T*>(values_.view().data), size_, values_.device()};
  }
  operator VectorView<T>() { return view(); }
  operator VectorView<const T>() const { return view(); }
  // A copy in host memory; waits for the device.
  std::vector<T> to_host() const {
    std::vector<T> host(static_cast<size_t>(size_));
    if (size_ > 0) {
      copy_bytes(host.data(), nullptr, values_.view().data, values_.device(),
                 values_.view().size_bytes());
    }
    return host;
  }

 private:
  static constexpr DType kDType = std::is_same_v<T, float> ? DType::kF32 : DType::kI32;
  Tensor values_;
  int64_t size_ = 0;
};

}  // namespace vernier
