// What the ops' entry points check of their arguments.
#pragma once

#include <span>

#include "base/check.h"
#include "tensor/matrix.h"

namespace vernier::kernels {

inline bool same_shape(ConstMatrixView a, ConstMatrixView b) {
  return a.rows == b.rows && a.cols == b.cols;
}

inline bool has_shape(ConstMatrixView a, int64_t rows, int64_t cols) {
  return a.rows == rows && a.cols == cols;
}

template <class T>
bool has_size(std::span<T> values, int64_t size) {
  return static_cast<int64_t>(values.size()) == size;
}

inline bool all_below(std::span<const int32_t> indexes, int64_t limit) {
  for (const int32_t index : indexes) {
    if (index < 0 || index >= limit) return false;
  }
  return true;
}

}  // namespace vernier::kernels
