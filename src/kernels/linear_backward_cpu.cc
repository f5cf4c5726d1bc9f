// Gradients of linear layers on the host.
//
// Input: g_x = g_y W runs along the weight's rows, so all threads share each tile of decoded rows:
// they decode it together, then add its part to tiles of g_x, each with one product of the BLAS.
// Weight: tiles of g_W, each one product over all tokens. Tiles depend on the shapes alone, so that
// results do not depend on the number of threads.
#include <algorithm>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/gemm_cpu.h"

namespace vernier::kernels::cpu {
namespace {

// Decoded weights of one tile, 16 MiB: two barriers a tile are few, and memory is read once a tile
// of g_x, which hides behind its products.
constexpr int64_t kDecodedElems = 4 << 20;
constexpr int64_t kDecodedRows = 8;  // of one thread at a time

// Tiles of a product, as linear's: columns are cut before rows, since the BLAS packs its second
// operand again for every tile of rows.
constexpr int64_t kMaxTileCols = 256;
constexpr int64_t kMinTileCols = 128;
constexpr int64_t kMaxTileRows = 512;
constexpr int64_t kMinTileRows = 128;
constexpr int64_t kEnoughTiles = 8;

int64_t n_blocks(int64_t n, int64_t block) { return (n + block - 1) / block; }

// c = a b + beta c, in parallel over tiles of c.
void tiled_gemm(Operand a, ConstMatrixView b, float beta, MatrixView c) {
  int64_t tile_rows = kMaxTileRows;
  int64_t tile_cols = kMaxTileCols;
  const auto is_enough = [&] {
    return n_blocks(c.rows, tile_rows) * n_blocks(c.cols, tile_cols) >= kEnoughTiles;
  };
  if (!is_enough()) tile_cols = kMinTileCols;
  while (!is_enough() && tile_rows > kMinTileRows) tile_rows /= 2;
  const int64_t n_row_tiles = n_blocks(c.rows, tile_rows);
  const int64_t n_tiles = n_row_tiles * n_blocks(c.cols, tile_cols);
#pragma omp parallel for schedule(dynamic) if (c.rows * c.cols * b.rows >= kMinParallelElems)
  for (int64_t index = 0; index < n_tiles; ++index) {
    const int64_t col = index / n_row_tiles * tile_cols;
    const int64_t row = index % n_row_tiles * tile_rows;
    const int64_t n_cols = std::min(tile_cols, c.cols - col);
    const int64_t n_rows = std::min(tile_rows, c.rows - row);
    const ConstMatrixView left =
        a.transposed ? a.matrix.col_range(row, n_rows) : a.matrix.row_range(row, n_rows);
    gemm({left, a.transposed}, plain(b.col_range(col, n_cols)), beta,
         c.row_range(row, n_rows).col_range(col, n_cols));
  }
}

void decode(const formats::PackedView& weight, int64_t first, MatrixView rows) {
#pragma omp parallel for schedule(static) if (rows.rows * rows.cols >= kMinParallelElems)
  for (int64_t block = 0; block < n_blocks(rows.rows, kDecodedRows); ++block) {
    const int64_t row = block * kDecodedRows;
    weight.format->decode_rows(weight, first + row, std::min(kDecodedRows, rows.rows - row),
                               rows.row(row).data());
  }
}

}  // namespace

void linear_input_gradient(ConstMatrixView g_y, const formats::PackedView& weight, MatrixView g_x) {
  thread_local std::vector<float> scratch;
  const int64_t tile_rows =
      std::min(weight.n, std::max(kDecodedRows, kDecodedElems / std::max<int64_t>(1, weight.k)));
  scratch.resize(std::max(scratch.size(), static_cast<size_t>(tile_rows * weight.k)));
  for (int64_t first = 0; first < weight.n; first += tile_rows) {
    const int64_t n_rows = std::min(tile_rows, weight.n - first);
    const MatrixView rows(scratch.data(), n_rows, weight.k);
    decode(weight, first, rows);
    tiled_gemm(plain(g_y.col_range(first, n_rows)), rows, first == 0 ? 0 : 1, g_x);
  }
}

void linear_input_gradient(ConstMatrixView g_y, ConstMatrixView weight, MatrixView g_x) {
  tiled_gemm(plain(g_y), weight, 0, g_x);
}

void linear_weight_gradient(ConstMatrixView g_y, ConstMatrixView x, MatrixView g_weight) {
  tiled_gemm(transposed(g_y), x, 1, g_weight);
}

}  // namespace vernier::kernels::cpu
