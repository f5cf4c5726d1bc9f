// Where NVIDIA's block-scaled products expect the block scales of an NVFP4 matrix. Scales of 128
// rows by 4 blocks make a tile of 512 bytes, in which the rows r, r + 32, r + 64 and r + 96 lie
// side by side, 4 bytes each; tiles follow one another along the row. Rows and blocks are padded to
// whole tiles, with zeros. Source: the cuBLAS documentation, "1D Block Scaling Factors Layout".
#pragma once

#include "formats/host_device.h"

namespace vernier::kernels {

inline constexpr int64_t kScaleTileRows = 128;
inline constexpr int64_t kScaleTileBlocks = 4;

VERNIER_HD constexpr int64_t n_scale_tiles(int64_t n, int64_t tile) {
  return (n + tile - 1) / tile;
}

// The byte of the scale of a row's block in a matrix with n_blocks blocks a row.
VERNIER_HD constexpr int64_t swizzled_scale_index(int64_t row, int64_t block, int64_t n_blocks) {
  const int64_t tile =
      row / kScaleTileRows * n_scale_tiles(n_blocks, kScaleTileBlocks) + block / kScaleTileBlocks;
  const int64_t in_tile = row % 32 * 16 + row % kScaleTileRows / 32 * 4 + block % kScaleTileBlocks;
  return tile * (kScaleTileRows * kScaleTileBlocks) + in_tile;
}

VERNIER_HD constexpr int64_t swizzled_scale_bytes(int64_t n_rows, int64_t n_blocks) {
  return n_scale_tiles(n_rows, kScaleTileRows) * n_scale_tiles(n_blocks, kScaleTileBlocks) *
         (kScaleTileRows * kScaleTileBlocks);
}

}  // namespace vernier::kernels
