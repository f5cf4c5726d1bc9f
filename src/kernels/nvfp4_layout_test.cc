#include "kernels/nvfp4_layout.h"

#include <gtest/gtest.h>

#include <vector>

namespace vernier::kernels {
namespace {

// Reads swizzled bytes from the first to the last, as the documentation's picture runs: tiles of
// rows, tiles of blocks, 32 rows, 4 of these groups of rows, 4 blocks.
std::vector<int> unpacked(const std::vector<int>& swizzled, int64_t n_rows, int64_t n_blocks) {
  std::vector<int> plain(static_cast<size_t>(n_rows * n_blocks));
  size_t next = 0;
  for (int64_t row_tile = 0; row_tile < n_rows; row_tile += 128) {
    for (int64_t block_tile = 0; block_tile < n_blocks; block_tile += 4) {
      for (int64_t row = row_tile; row < row_tile + 32; ++row) {
        for (int64_t group = 0; group < 4; ++group) {
          for (int64_t block = block_tile; block < block_tile + 4; ++block) {
            const int value = swizzled[next++];
            if (row + 32 * group < n_rows && block < n_blocks) {
              plain[static_cast<size_t>((row + 32 * group) * n_blocks + block)] = value;
            } else {
              EXPECT_EQ(value, 0) << "padding";
            }
          }
        }
      }
    }
  }
  EXPECT_EQ(next, swizzled.size());
  return plain;
}

TEST(Nvfp4Layout, WorkedByHand) {
  EXPECT_EQ(swizzled_scale_index(0, 0, 8), 0);
  EXPECT_EQ(swizzled_scale_index(0, 3, 8), 3);
  EXPECT_EQ(swizzled_scale_index(0, 4, 8), 512);  // the next tile along the row
  EXPECT_EQ(swizzled_scale_index(1, 0, 8), 16);
  EXPECT_EQ(swizzled_scale_index(32, 0, 8), 4);
  EXPECT_EQ(swizzled_scale_index(127, 3, 8), 511);
  EXPECT_EQ(swizzled_scale_index(128, 0, 8), 1024);
  EXPECT_EQ(swizzled_scale_index(128, 0, 5), 1024);  // 5 blocks are two tiles too
  EXPECT_EQ(swizzled_scale_bytes(129, 5), 4 * 512);
}

TEST(Nvfp4Layout, UnpackingInvertsIt) {
  for (const int64_t n_rows : {1, 31, 33, 128, 129, 300}) {
    for (const int64_t n_blocks : {1, 3, 4, 6, 16, 116}) {
      std::vector<int> plain(static_cast<size_t>(n_rows * n_blocks));
      std::vector<int> swizzled(static_cast<size_t>(swizzled_scale_bytes(n_rows, n_blocks)));
      for (int64_t row = 0; row < n_rows; ++row) {
        for (int64_t block = 0; block < n_blocks; ++block) {
          const int value = static_cast<int>(row * n_blocks + block) + 1;
          plain[static_cast<size_t>(value - 1)] = value;
          swizzled[static_cast<size_t>(swizzled_scale_index(row, block, n_blocks))] = value;
        }
      }
      EXPECT_EQ(unpacked(swizzled, n_rows, n_blocks), plain) << n_rows << " x " << n_blocks;
    }
  }
}

}  // namespace
}  // namespace vernier::kernels
