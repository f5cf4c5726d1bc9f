// Sums over the rows of a matrix on the host that do not depend on the number of threads: rows fall
// into tiles of a fixed number, tiles run in parallel, their sums are added in order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu.h"

namespace vernier::kernels::cpu {

// Calls body(row, sums) for every row. `sums` holds as many values as `totals` and belongs to the
// row's tile, whose rows come in order; null when totals is empty. Afterwards totals += all sums.
template <class Body>
void sum_over_rows(int64_t n_rows, int64_t n_cols, std::span<float> totals, Body body) {
  constexpr int64_t kTileRows = 32;
  const int64_t n_tiles = (n_rows + kTileRows - 1) / kTileRows;
  const int64_t n_sums = std::ssize(totals);
  std::vector<float> sums(static_cast<size_t>(n_tiles * n_sums));
#pragma omp parallel for schedule(static) if (n_rows * n_cols >= kMinParallelElems)
  for (int64_t tile = 0; tile < n_tiles; ++tile) {
    float* own = n_sums == 0 ? nullptr : sums.data() + tile * n_sums;
    const int64_t end = std::min(n_rows, (tile + 1) * kTileRows);
    for (int64_t row = tile * kTileRows; row < end; ++row) body(row, own);
  }
  for (int64_t tile = 0; tile < n_tiles; ++tile) {
    for (int64_t i = 0; i < n_sums; ++i) totals[i] += sums[tile * n_sums + i];
  }
}

}  // namespace vernier::kernels::cpu
