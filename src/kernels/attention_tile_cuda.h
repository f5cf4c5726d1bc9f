// Tiles in shared memory and a warp's products with them: what attention on tensor cores and its
// gradients share.
//
// A tile has rows of kDim BF16, or of kDim E4M3 codes in the first half of such a row. Their
// 16-byte chunks are permuted by the row's number, so that eight rows of one chunk lie in different
// banks. A warp's own rows come 16 at a time, in fragments (tensor_core_cuda.h).
#pragma once

#include "kernels/attention_plan_cuda.h"
#include "kernels/tensor_core_cuda.h"

namespace vernier::kernels::cuda {

// c += A B of E4M3 codes with FP32 sums: A [16 rows x 32 k], B [32 k x 8 columns], in fragments
// with four codes, k 2 c .. 2 c + 3, in place of two BF16.
__device__ inline void multiply_add_codes(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                          uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Where a 16-byte chunk of a row lies in a tile.
template <int kDim>
__device__ std::byte* chunk_at(std::byte* tile, int row, int chunk) {
  return tile + row * kDim * 2 + ((chunk ^ (row & 7)) << 4);
}

// Copies 16 bytes of elements, those from n_inside on as zeros.
template <class T>
__device__ void copy_chunk(std::byte* to, const T* from, int n_inside, bool is_aligned) {
  constexpr int kElems = 16 / sizeof(T);
  if (is_aligned) return copy_async(to, from, n_inside > 0);
  alignas(16) T elems[kElems];
#pragma unroll
  for (int i = 0; i < kElems; ++i) elems[i] = i < n_inside ? from[i] : T{};
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(elems);
}

// A warp's 16 kRowTiles rows times the 64 rows of a tile, in fragments.
template <int kRowTiles>
using TileProducts = float[kRowTiles][kBlockKeys / 8][4];

// products = A B^T. a: the warp's first row, in a tile. b: a tile of 64 rows. Elem: of both.
template <int kDim, class Elem, int kRowTiles>
__device__ void multiply_tile(std::byte* a, std::byte* b, TileProducts<kRowTiles>& products) {
  constexpr int kSteps = kDim * sizeof(Elem) / 32;  // each takes two chunks of a row
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (auto& row_tile : products) {
#pragma unroll
    for (auto& fragment : row_tile) {
#pragma unroll
      for (float& product : fragment) product = 0;
    }
  }
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    uint32_t own[kRowTiles][4];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      load_fragments(own[r], chunk_at<kDim>(a, 16 * r + lane % 16, 2 * step + lane / 16));
    }
#pragma unroll
    for (int n = 0; n < kBlockKeys / 8; n += 2) {
      uint32_t row[4];
      load_fragments(row,
                     chunk_at<kDim>(b, 8 * n + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        if constexpr (sizeof(Elem) == 1) {
          multiply_add_codes(products[r][n], own[r], row[0], row[1]);
          multiply_add_codes(products[r][n + 1], own[r], row[2], row[3]);
        } else {
          multiply_add(products[r][n], own[r], row[0], row[1]);
          multiply_add(products[r][n + 1], own[r], row[2], row[3]);
        }
      }
    }
  }
}

// sums += W B, W rounded to BF16: kCols channels of B from first_col on, a multiple of 8. b: a tile
// of 64 rows.
template <int kDim, int kRowTiles, int kCols>
__device__ void add_weighted_tile(const TileProducts<kRowTiles>& weights, std::byte* b,
                                  int first_col, float (&sums)[kRowTiles][kCols / 8][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < kBlockKeys / 16; ++step) {
    uint32_t w[kRowTiles][4];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* pair = &weights[r][2 * step + i / 2][i % 2 * 2];
        w[r][i] = bf16_pair(pair[0], pair[1]);
      }
    }
#pragma unroll
    for (int d = 0; d < kCols / 8; d += 2) {
      uint32_t row[4];
      load_fragments_transposed(
          row, chunk_at<kDim>(b, 16 * step + lane % 16, first_col / 8 + d + lane / 16));
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        multiply_add(sums[r][d], w[r], row[0], row[1]);
        multiply_add(sums[r][d + 1], w[r], row[2], row[3]);
      }
    }
  }
}

}  // namespace vernier::kernels::cuda
