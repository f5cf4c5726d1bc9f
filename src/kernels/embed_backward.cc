// Gradient of an embedding on the host: blocks of columns in parallel, each over all tokens in
// order, so that a token that comes twice needs no lock.
#include "kernels/embed_backward.h"

#include <algorithm>

#include "kernels/checks.h"
#include "kernels/cpu.h"

namespace vernier::kernels {

void embed_backward(std::span<const int32_t> ids, ConstMatrixView g, MatrixView g_table) {
  VERNIER_CHECK(g.rows == std::ssize(ids) && g.cols == g_table.cols);
  VERNIER_CHECK(all_below(ids, g_table.rows));
  constexpr int64_t kBlockCols = 256;
  const int64_t n_blocks = (g.cols + kBlockCols - 1) / kBlockCols;
#pragma omp parallel for schedule(static) if (g.rows * g.cols >= cpu::kMinParallelElems)
  for (int64_t block = 0; block < n_blocks; ++block) {
    const int64_t begin = block * kBlockCols;
    const int64_t end = std::min(g.cols, begin + kBlockCols);
    for (int64_t row = 0; row < g.rows; ++row) {
      const float* from = g.row(row).data();
      float* to = g_table.row(ids[row]).data();
      for (int64_t col = begin; col < end; ++col) to[col] += from[col];
    }
  }
}

}  // namespace vernier::kernels
