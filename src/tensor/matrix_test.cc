#include "tensor/matrix.h"

#include <gtest/gtest.h>

#include <numeric>

namespace vernier {
namespace {

Matrix counting(int64_t rows, int64_t cols) {
  Matrix matrix(rows, cols);
  std::iota(matrix.values().begin(), matrix.values().end(), 0.0f);
  return matrix;
}

TEST(MatrixTest, StartsAtZeroAndIsRowMajor) {
  const Matrix zeros(2, 3);
  for (const float value : zeros.values()) EXPECT_EQ(value, 0.0f);
  const Matrix matrix = counting(2, 3);
  EXPECT_EQ(matrix.view().row(1)[2], 5.0f);
}

TEST(MatrixTest, RangesShareMemoryAndKeepTheStride) {
  Matrix matrix = counting(4, 5);
  const MatrixView middle = matrix.view().row_range(1, 2).col_range(2, 3);
  EXPECT_EQ(middle.rows, 2);
  EXPECT_EQ(middle.cols, 3);
  EXPECT_EQ(middle.row_stride, 5);
  EXPECT_EQ(middle.row(1)[0], 12.0f);
  middle.row(1)[0] = -1.0f;
  EXPECT_EQ(matrix.values()[12], -1.0f);
}

TEST(MatrixTest, MutableViewsBecomeReadOnlyOnes) {
  Matrix matrix = counting(2, 2);
  const ConstMatrixView view = matrix.view().col_range(1, 1);
  EXPECT_EQ(view.row_stride, 2);
  EXPECT_EQ(view.row(1)[0], 3.0f);
}

TEST(MatrixTest, EmptyMatricesHaveEmptyRows) {
  const Matrix no_cols(3, 0);
  EXPECT_TRUE(no_cols.view().row(2).empty());
  EXPECT_TRUE(Matrix(0, 7).values().empty());
}

}  // namespace
}  // namespace vernier
