#include "kernels/decode_tile.h"

#include <gtest/gtest.h>

namespace vernier::kernels {
namespace {

TEST(DecodeTile, HoldsASmallWeightWhole) {
  EXPECT_EQ(decode_tile_rows(300, 64, DType::kBF16), 300);
  EXPECT_EQ(decode_tile_bytes(300, 64, DType::kBF16), 300 * 64 * 2);
  EXPECT_EQ(decode_tile_bytes(0, 64, DType::kBF16), 0);
}

TEST(DecodeTile, IsAtMost256MiB) {
  EXPECT_EQ(decode_tile_rows(131072, 4096, DType::kBF16), 32768);
  EXPECT_EQ(decode_tile_bytes(131072, 4096, DType::kBF16), int64_t{256} << 20);
  // 12483 rows of 21504 bytes fit; 48 times 256 are taken.
  EXPECT_EQ(decode_tile_rows(131072, 10752, DType::kBF16), 48 * 256);
}

// Unless 256 rows are more than that.
TEST(DecodeTile, HasWholeGroupsOfRows) {
  EXPECT_EQ(decode_tile_rows(1000, int64_t{1} << 20, DType::kF32), 256);
}

}  // namespace
}  // namespace vernier::kernels
