// What the ops' entry points check of their arguments.
#pragma once

#include <initializer_list>
#include <span>

#include "base/check.h"
#include "tensor/any_matrix.h"

namespace vernier::kernels {

inline bool same_shape(ConstAnyMatrixView a, ConstAnyMatrixView b) {
  return a.rows == b.rows && a.cols == b.cols;
}

inline bool has_shape(ConstAnyMatrixView a, int64_t rows, int64_t cols) {
  return a.rows == rows && a.cols == cols;
}

inline bool has_dtype(ConstAnyMatrixView a, DType dtype) { return a.dtype == dtype; }

// BF16 or FP32; on the host FP32.
inline bool is_activation(ConstAnyMatrixView a) {
  return a.dtype == DType::kF32 || (a.dtype == DType::kBF16 && a.device != nullptr);
}

inline bool same_place(Device* device, std::initializer_list<Device*> others) {
  for (Device* other : others) {
    if (other != device) return false;
  }
  return true;
}

// Rows [first_row, first_row + n_rows) of every sequence lie within n_rows_total.
template <class Sequence>
bool all_within(std::span<const Sequence> sequences, int64_t n_rows_total) {
  for (const Sequence& sequence : sequences) {
    if (sequence.first_row < 0 || sequence.n_rows < 0) return false;
    if (sequence.first_row + sequence.n_rows > n_rows_total) return false;
  }
  return true;
}

inline bool all_below(std::span<const int32_t> indexes, int64_t limit) {
  for (const int32_t index : indexes) {
    if (index < 0 || index >= limit) return false;
  }
  return true;
}

}  // namespace vernier::kernels
