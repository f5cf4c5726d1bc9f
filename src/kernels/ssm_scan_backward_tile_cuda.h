// Products of tiles in shared memory, as the backward scan is made of them: one interface for BF16
// factors (tensor cores) and FP32 factors (plain arithmetic), with sums in registers that lie
// alike.
//
// Rows of tiles are 16 bytes longer than their elements, so that eight of them lie in different
// banks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/tensor_core_cuda.h"

namespace vernier::kernels::cuda {

// Rows of kCols elements.
template <class T, int kCols>
struct Tile {
  static constexpr int kStride = kCols + 16 / static_cast<int>(sizeof(T));
  T* data;

  static constexpr int bytes(int n_rows) { return n_rows * kStride * static_cast<int>(sizeof(T)); }
  __device__ T* at(int row, int col) const { return data + row * kStride + col; }
  __device__ Tile from_col(int col) const { return {data + col}; }
};

// Copies n_rows x n_cols elements, zeros around them up to kRows x kCols. is_aligned: rows begin at
// multiples of 16 bytes and are whole packs of 16. The copies may be asynchronous.
template <int kRows, int kThreads, class T, int kCols>
__device__ inline void load_tile(Tile<T, kCols> to, const T* from, int64_t stride, int n_rows,
                                 int n_cols, bool is_aligned) {
  constexpr int kPack = 16 / static_cast<int>(sizeof(T));
  constexpr int kPacks = kCols / kPack;
#pragma unroll 4
  for (int index = threadIdx.x; index < kRows * kPacks; index += kThreads) {
    const int row = index / kPacks;
    const int col = index % kPacks * kPack;
    const int n_inside = row < n_rows ? n_cols - col : 0;
    const T* pack = n_inside > 0 ? from + row * stride + col : from;
    if (is_aligned) {
      copy_async(reinterpret_cast<std::byte*>(to.at(row, col)), pack, n_inside > 0);
    } else {
      for (int i = 0; i < kPack; ++i) to.at(row, col)[i] = i < n_inside ? pack[i] : T(0.0f);
    }
  }
}

__device__ inline void store_pack(float* to, float4 pack) { *reinterpret_cast<float4*>(to) = pack; }
__device__ inline void store_pack(__nv_bfloat16* to, float4 pack) {
  *reinterpret_cast<uint2*>(to) = {bf16_pair(pack.x, pack.y), bf16_pair(pack.z, pack.w)};
}

// Two neighbouring elements, at an even column.
__device__ inline float2 load_pair(const float* from) {
  return *reinterpret_cast<const float2*>(from);
}
__device__ inline float2 load_pair(const __nv_bfloat16* from) {
  const uint32_t pair = *reinterpret_cast<const uint32_t*>(from);
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u)};
}
__device__ inline void store_pair(float* to, float low, float high) {
  *reinterpret_cast<float2*>(to) = {low, high};
}
__device__ inline void store_pair(__nv_bfloat16* to, float low, float high) {
  *reinterpret_cast<uint32_t*>(to) = bf16_pair(low, high);
}

// Up to two elements of global memory, those below n_inside.
template <class T>
__device__ inline void store_inside(T* to, float low, float high, int n_inside, bool is_aligned) {
  if (is_aligned && n_inside >= 2) return store_pair(to, low, high);
  if (n_inside > 0) to[0] = T(low);
  if (n_inside > 1) to[1] = T(high);
}

// A warp's part of a product of kCols columns: 16 rows, and of the columns' blocks of 16 every
// kColWarps-th. Warps go first along columns, then along rows. Of block i, values[i][j][2 half + e]
// is row lane / 4 + 8 half, column 8 j + 2 (lane % 4) + e.
template <int kCols, int kColWarps>
struct WarpSums {
  static constexpr int kAllBlocks = kCols / 16;
  static constexpr int kBlocks = (kAllBlocks + kColWarps - 1) / kColWarps;
  float values[kBlocks][2][4];

  __device__ static int col_warp() { return static_cast<int>(threadIdx.x) / 32 % kColWarps; }
  __device__ static int first_row() { return static_cast<int>(threadIdx.x) / 32 / kColWarps * 16; }
  __device__ static int first_col(int block) { return (col_warp() + block * kColWarps) * 16; }
  // The same for a whole warp.
  __device__ static bool has(int block) {
    return kAllBlocks % kColWarps == 0 || col_warp() + block * kColWarps < kAllBlocks;
  }

  __device__ void clear() {
#pragma unroll
    for (auto& block : values) {
#pragma unroll
      for (auto& fragment : block) fragment[0] = fragment[1] = fragment[2] = fragment[3] = 0;
    }
  }

  // body(block, j, half, row, col) for all pairs of the lane's values.
  template <class Body>
  __device__ static void for_each_pair(Body body) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      if (!has(block)) continue;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          body(block, j, half, first_row() + lane / 4 + 8 * half,
               first_col(block) + 8 * j + lane % 4 * 2);
        }
      }
    }
  }

  // Adds, over k in [k_begin, k_end), multiples of 16, A(row, k) B(k, col). A is a tile or, with
  // kTransposedA, its transpose; B likewise.
  template <bool kTransposedA, bool kTransposedB, int kColsA, int kColsB>
  __device__ void add_product(Tile<__nv_bfloat16, kColsA> a, Tile<__nv_bfloat16, kColsB> b,
                              int k_begin, int k_end) {
    if (!has(0)) return;
    // The lane's row, of those that an instruction reads: rows first, or columns first.
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int low = lane % 16, low_col = lane / 16 * 8;
    const int high = lane % 8 + lane / 16 * 8, high_col = lane / 8 % 2 * 8;
    const auto bytes_at = [](const auto& tile, int row, int col) {
      return reinterpret_cast<const std::byte*>(tile.at(row, col));
    };
#pragma unroll 4
    for (int k = k_begin; k < k_end; k += 16) {
      uint32_t left[4];
      if constexpr (kTransposedA) {
        load_fragments_transposed(left, bytes_at(a, k + high, first_row() + high_col));
      } else {
        load_fragments(left, bytes_at(a, first_row() + low, k + low_col));
      }
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        if (!has(block)) continue;
        uint32_t right[4];
        if constexpr (kTransposedB) {
          load_fragments(right, bytes_at(b, first_col(block) + high, k + high_col));
        } else {
          load_fragments_transposed(right, bytes_at(b, k + low, first_col(block) + low_col));
        }
        multiply_add(values[block][0], left, right[0], right[1]);
        multiply_add(values[block][1], left, right[2], right[3]);
      }
    }
  }

  // The same in FP32: a lane's four values of a fragment are two rows times two columns.
  template <bool kTransposedA, bool kTransposedB, int kColsA, int kColsB>
  __device__ void add_product(Tile<float, kColsA> a, Tile<float, kColsB> b, int k_begin,
                              int k_end) {
    if (!has(0)) return;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int row = first_row() + lane / 4;
#pragma unroll 2
    for (int k = k_begin; k < k_end; k += 4) {
      const float4 left[2] = {four_of<kTransposedA>(a, row, k),
                              four_of<kTransposedA>(a, row + 8, k)};
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        if (!has(block)) continue;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int col = first_col(block) + 8 * j + lane % 4 * 2;
          float4 right[2];  // of two columns
          if constexpr (kTransposedB) {
            right[0] = four_of<false>(b, col, k);
            right[1] = four_of<false>(b, col + 1, k);
          } else {
            const float2 pairs[4] = {load_pair(b.at(k, col)), load_pair(b.at(k + 1, col)),
                                     load_pair(b.at(k + 2, col)), load_pair(b.at(k + 3, col))};
            right[0] = {pairs[0].x, pairs[1].x, pairs[2].x, pairs[3].x};
            right[1] = {pairs[0].y, pairs[1].y, pairs[2].y, pairs[3].y};
          }
#pragma unroll
          for (int i = 0; i < 4; ++i) add_dot(values[block][j][i], left[i / 2], right[i % 2]);
        }
      }
    }
  }

 private:
  // Elements k .. k + 3 of a row, or of a column of the tile.
  template <bool kIsColumn, int kTileCols>
  __device__ static float4 four_of(Tile<float, kTileCols> tile, int index, int k) {
    if constexpr (kIsColumn) {
      return {*tile.at(k, index), *tile.at(k + 1, index), *tile.at(k + 2, index),
              *tile.at(k + 3, index)};
    } else {
      return *reinterpret_cast<const float4*>(tile.at(index, k));
    }
  }
  __device__ static void add_dot(float& sum, float4 left, float4 right) {
    sum = fmaf(left.x, right.x, sum);
    sum = fmaf(left.y, right.y, sum);
    sum = fmaf(left.z, right.z, sum);
    sum = fmaf(left.w, right.w, sum);
  }
};

}  // namespace vernier::kernels::cuda
