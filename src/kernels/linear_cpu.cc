// Linear layers on the host.
//
// Many tokens: the output is cut into tiles of columns x tokens; a thread decodes the tile's rows
// of the weight into its own scratch and hands both to the host's matrix product. Few tokens: bound
// by reading the weight, so each block of decoded rows stays in the second-level cache and meets
// the tokens as dot products. Tiles depend on the shapes alone, so that results do not depend on
// the number of threads.
#include <algorithm>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/gemm_cpu.h"
#include "kernels/vec.h"

namespace vernier::kernels::cpu {
namespace {

constexpr int64_t kFewTokens = 64;
constexpr int64_t kFewBlockElems = 16 << 10;  // decoded weights of one block: 64 KiB

constexpr int64_t kMaxTileCols = 256;
constexpr int64_t kMinTileCols = 128;
constexpr int64_t kTileElems = 1 << 20;  // decoded weights of one tile: 4 MiB
constexpr int64_t kMaxTileTokens = 512;
constexpr int64_t kMinTileTokens = 128;
constexpr int64_t kEnoughTiles = 8;

int64_t n_blocks(int64_t n, int64_t block) { return (n + block - 1) / block; }

// Where rows of the weight come from: decoded into scratch, or as they are.
struct PackedRows {
  const formats::PackedView& weight;
  int64_t n() const { return weight.n; }
  ConstMatrixView rows(int64_t first, int64_t n_rows, std::vector<float>& scratch) const {
    scratch.resize(std::max(scratch.size(), static_cast<size_t>(n_rows * weight.k)));
    weight.format->decode_rows(weight, first, n_rows, scratch.data());
    return {scratch.data(), n_rows, weight.k};
  }
};

struct PlainRows {
  ConstMatrixView weight;
  int64_t n() const { return weight.rows; }
  ConstMatrixView rows(int64_t first, int64_t n_rows, std::vector<float>&) const {
    return weight.row_range(first, n_rows);
  }
};

std::vector<float>& thread_scratch() {
  thread_local std::vector<float> scratch;
  return scratch;
}

template <class Source>
void few_tokens(ConstMatrixView x, const Source& source, MatrixView y) {
  const int64_t block = std::max<int64_t>(4, kFewBlockElems / std::max<int64_t>(1, x.cols));
#pragma omp parallel for schedule(static) if (source.n() * x.cols >= kMinParallelElems)
  for (int64_t index = 0; index < n_blocks(source.n(), block); ++index) {
    const int64_t first = index * block;
    const int64_t n_rows = std::min(block, source.n() - first);
    const ConstMatrixView rows = source.rows(first, n_rows, thread_scratch());
    vec::dots({rows.data, rows.row_stride, n_rows}, {x.data, x.row_stride, x.rows}, x.cols,
              y.data + first, y.row_stride);
  }
}

struct TileShape {
  int64_t n_cols;
  int64_t n_tokens;
};

// The product packs its operands again for every tile, which costs most where tokens are few:
// columns are cut first. Where there still are too few tiles to share among cores, tokens are cut
// too.
TileShape tile_shape(int64_t n_tokens, int64_t n, int64_t k) {
  TileShape tile{k * kMaxTileCols > kTileElems ? kMinTileCols : kMaxTileCols, kMaxTileTokens};
  const auto is_enough = [&] {
    return n_blocks(n, tile.n_cols) * n_blocks(n_tokens, tile.n_tokens) >= kEnoughTiles;
  };
  if (!is_enough()) tile.n_cols = kMinTileCols;
  while (!is_enough() && tile.n_tokens > kMinTileTokens) tile.n_tokens /= 2;
  return tile;
}

template <class Source>
void many_tokens(ConstMatrixView x, const Source& source, MatrixView y) {
  const TileShape tile = tile_shape(x.rows, source.n(), x.cols);
  const int64_t n_token_tiles = n_blocks(x.rows, tile.n_tokens);
  const int64_t n_tiles = n_token_tiles * n_blocks(source.n(), tile.n_cols);
#pragma omp parallel for schedule(dynamic)
  for (int64_t index = 0; index < n_tiles; ++index) {
    const int64_t col = index / n_token_tiles * tile.n_cols;
    const int64_t token = index % n_token_tiles * tile.n_tokens;
    const int64_t n_cols = std::min(tile.n_cols, source.n() - col);
    const int64_t n_tokens = std::min(tile.n_tokens, x.rows - token);
    gemm(plain(x.row_range(token, n_tokens)),
         transposed(source.rows(col, n_cols, thread_scratch())), 0,
         y.row_range(token, n_tokens).col_range(col, n_cols));
  }
}

template <class Source>
void product(ConstMatrixView x, const Source& source, MatrixView y) {
  if (x.rows <= kFewTokens) {
    few_tokens(x, source, y);
  } else {
    many_tokens(x, source, y);
  }
}

}  // namespace

void linear(ConstMatrixView x, const formats::PackedView& weight, MatrixView y) {
  product(x, PackedRows{weight}, y);
}

void linear(ConstMatrixView x, ConstMatrixView weight, MatrixView y) {
  product(x, PlainRows{weight}, y);
}

void embed(std::span<const int32_t> ids, const formats::PackedView& weight, MatrixView y) {
#pragma omp parallel for schedule(static) if (y.rows * y.cols >= kMinParallelElems)
  for (int64_t row = 0; row < y.rows; ++row) {
    weight.format->decode_rows(weight, ids[row], 1, y.row(row).data());
  }
}

}  // namespace vernier::kernels::cpu
