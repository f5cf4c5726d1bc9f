// What every backend asks of the matrices that it is given.
#pragma once

#include <cstdint>
#include <numeric>
#include <span>

#include "base/check.h"
#include "tensor/any_matrix.h"

namespace vernier::comm {

inline bool is_contiguous(ConstAnyMatrixView matrix) {
  return matrix.rows <= 1 || matrix.row_stride == matrix.cols;
}

inline int64_t size_bytes(ConstAnyMatrixView matrix) {
  return matrix.rows * matrix.cols * matrix.elem_bytes();
}

inline int64_t row_bytes(ConstAnyMatrixView matrix) { return matrix.cols * matrix.elem_bytes(); }

// One side: as many counts as ranks, and together the matrix's rows.
inline void check_runs(ConstAnyMatrixView matrix, std::span<const int64_t> n_rows, int n_ranks) {
  VERNIER_CHECK(is_contiguous(matrix) && std::ssize(n_rows) == n_ranks);
  VERNIER_CHECK(std::accumulate(n_rows.begin(), n_rows.end(), int64_t{0}) == matrix.rows);
}

inline void check_exchange(ConstAnyMatrixView own, std::span<const int64_t> n_to,
                           ConstAnyMatrixView arrived, std::span<const int64_t> n_from,
                           int n_ranks) {
  VERNIER_CHECK(own.cols == arrived.cols && own.dtype == arrived.dtype);
  VERNIER_CHECK(own.device == arrived.device);
  check_runs(own, n_to, n_ranks);
  check_runs(arrived, n_from, n_ranks);
}

}  // namespace vernier::comm
