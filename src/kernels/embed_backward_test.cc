#include "kernels/embed_backward.h"

#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

TEST(EmbedBackward, WorkedByHand) {
  Matrix table = matrix_of(3, 2, {1, 2, 3, 4, 5, 6});
  embed_backward(std::vector<int32_t>{2, 0, 2}, matrix_of(3, 2, {10, 20, 30, 40, 50, 60}), table);
  EXPECT_THAT(table.values(), testing::ElementsAre(31, 42, 3, 4, 65, 86));
  embed_backward({}, Matrix(0, 2), table);
  EXPECT_EQ(table.values()[0], 31.0f);
}

// Each row of the table sums its own, in order.
TEST(EmbedBackward, SumsRepeatedTokensInOrder) {
  for (const int64_t n_cols : {1, 255, 256, 700}) {
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 300; ++i) ids.push_back(i * 77 % 50);
    const Matrix g = random_matrix(300, n_cols + 5, 1);
    Matrix table = random_matrix(60, n_cols + 9, 2);
    Matrix expected = table;
    for (size_t i = 0; i < ids.size(); ++i) {
      for (int64_t c = 0; c < n_cols; ++c) {
        expected.view().row(ids[i])[3 + c] += g.view().row(static_cast<int64_t>(i))[1 + c];
      }
    }
    embed_backward(ids, g.view().col_range(1, n_cols), table.view().col_range(3, n_cols));
    EXPECT_EQ(flat(table), flat(expected));
  }
}

TEST(EmbedBackward, DoesNotDependOnThreads) {
  const Matrix g = random_matrix(200, 1000, 3);
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 200; ++i) ids.push_back(i % 7);
  expect_thread_count_independent([&] {
    Matrix table(7, 1000);
    embed_backward(ids, g, table);
    return flat(table);
  });
}

using EmbedBackwardDeathTest = CheckDeathTest;

TEST_F(EmbedBackwardDeathTest, ChecksIds) {
  Matrix table(3, 2);
  EXPECT_DEATH(embed_backward(std::vector<int32_t>{3}, Matrix(1, 2), table), "all_below");
  EXPECT_DEATH(embed_backward(std::vector<int32_t>{0}, Matrix(1, 3), table), "g_table.cols");
}

}  // namespace
}  // namespace vernier::kernels
