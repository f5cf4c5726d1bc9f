#include "comm/pieces.h"

#include <gtest/gtest.h>

#include <vector>

namespace vernier::comm {
namespace {

std::vector<std::vector<int>> pieces(const std::vector<int>& values, int64_t max_piece) {
  std::vector<std::vector<int>> all;
  in_pieces(
      std::span(values), [&](auto piece) { all.emplace_back(piece.begin(), piece.end()); },
      max_piece);
  return all;
}

TEST(PiecesTest, AreInOrderAndCoverAll) {
  using Pieces = std::vector<std::vector<int>>;
  EXPECT_EQ(pieces({}, 2), Pieces());
  EXPECT_EQ(pieces({1, 2}, 2), (Pieces{{1, 2}}));
  EXPECT_EQ(pieces({1, 2, 3, 4, 5}, 2), (Pieces{{1, 2}, {3, 4}, {5}}));
}

}  // namespace
}  // namespace vernier::comm
