#include "kernels/elementwise.h"

#include <limits>

#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(SquaredRelu, WorkedByHand) {
  Matrix x = matrix_of(1, 6, {-2, -0.0f, 0, 3, -kInf, kInf});
  squared_relu(x);
  EXPECT_THAT(x.values(), testing::ElementsAre(0, 0, 0, 9, 0, kInf));
}

TEST(SquaredRelu, KeepsNan) {
  Matrix x = matrix_of(1, 1, {std::nanf("")});
  squared_relu(x);
  EXPECT_TRUE(std::isnan(x.values()[0]));
}

TEST(SquaredRelu, EqualsReference) {  // one product, rounded once, in both
  Matrix x = random_matrix(130, 131, 1);
  Matrix expected = x;
  squared_relu(x);
  ref::squared_relu(expected);
  EXPECT_EQ(flat(x), flat(expected));
}

TEST(SoftplusDt, WorkedByHand) {
  Matrix dt = matrix_of(1, 4, {0, 21, -200, 1});
  softplus_dt(dt, std::vector<float>{0, 4, 0, -1}, 0, kInf);
  EXPECT_FLOAT_EQ(dt.values()[0], std::log(2.0f));
  EXPECT_EQ(dt.values()[1], 25.0f);  // beyond the threshold the value itself
  EXPECT_EQ(dt.values()[2], 0.0f);
  EXPECT_FLOAT_EQ(dt.values()[3], std::log(2.0f));
}

TEST(SoftplusDt, ClampsAfterwards) {
  Matrix dt = matrix_of(1, 3, {-50, 0, 50});
  softplus_dt(dt, std::vector<float>(3), 0.001f, 0.1f);
  EXPECT_THAT(dt.values(), testing::ElementsAre(0.001f, 0.1f, 0.1f));
}

TEST(SoftplusDt, AgreesWithReference) {
  for (const int64_t n_tokens : {0, 1, 300}) {
    Matrix dt = random_matrix(n_tokens, 65, 2, 10.0f);
    Matrix expected = dt;
    const auto bias = random_vector(65, 3);
    softplus_dt(dt, bias, 0, kInf);
    ref::softplus_dt(expected, bias, 0, kInf);
    // The rounded sum s moves softplus by at most |s| roundoffs: relative to softplus(s) > exp(s) /
    // 2 at the negative end that is |s| <= 50 of them; exp and log1p add 4.
    expect_near(dt, expected, 0, 64 * kRoundoff);
  }
}

TEST(Rows, GatherThenScatterAddRestoresAWeightedSum) {
  const Matrix x = random_matrix(200, 100, 4);
  std::vector<int32_t> rows(200);
  for (int32_t i = 0; i < 200; ++i)
    rows[i] = (i * 77) % 200;  // a permutation: 77 and 200 are coprime
  Matrix gathered(200, 100);
  gather_rows(x, rows, gathered);
  for (int64_t i = 0; i < 200; ++i) {
    ASSERT_TRUE(same_bits(gathered.view().row(i), x.view().row(rows[i])));
  }
  Matrix sum = x;
  scatter_add_rows(gathered, rows, std::vector<float>(200, 0.5f), sum);
  for (size_t i = 0; i < sum.values().size(); ++i) {
    ASSERT_FLOAT_EQ(sum.values()[i], 1.5f * x.values()[i]);
  }
}

TEST(Rows, ScatterAddLeavesOthersAlone) {
  Matrix y = matrix_of(3, 1, {1, 2, 3});
  scatter_add_rows(matrix_of(1, 1, {10}), std::vector<int32_t>{1}, std::vector<float>{0.5f}, y);
  EXPECT_THAT(y.values(), testing::ElementsAre(1, 7, 3));
  scatter_add_rows(Matrix(0, 1), {}, {}, y);
  EXPECT_THAT(y.values(), testing::ElementsAre(1, 7, 3));
}

TEST(Add, AddsStridedRows) {
  Matrix wide = random_matrix(7, 20, 5);
  const Matrix x = random_matrix(7, 11, 6);
  Matrix expected = wide;
  add(x, wide.view().col_range(3, 11));
  ref::add(x, expected.view().col_range(3, 11));
  EXPECT_EQ(flat(wide), flat(expected));
}

TEST(Elementwise, DoesNotDependOnThreads) {
  const Matrix x = random_matrix(300, 100, 7);
  const auto bias = random_vector(100, 8);
  expect_thread_count_independent([&] {
    Matrix y = x;
    add(x, y);
    softplus_dt(y, bias, 0, kInf);
    squared_relu(y);
    return flat(y);
  });
}

using ElementwiseDeathTest = CheckDeathTest;

TEST_F(ElementwiseDeathTest, ChecksShapes) {
  Matrix x(2, 3);
  Matrix y(2, 4);
  EXPECT_DEATH(add(x, y), "same_shape");
  EXPECT_DEATH(softplus_dt(x, std::vector<float>(2), 0, 1), "bias");
  EXPECT_DEATH(gather_rows(x, std::vector<int32_t>{0, 2}, x), "all_below");
  EXPECT_DEATH(scatter_add_rows(x, std::vector<int32_t>{0, -1}, std::vector<float>(2), x),
               "all_below");
}

}  // namespace
}  // namespace vernier::kernels
