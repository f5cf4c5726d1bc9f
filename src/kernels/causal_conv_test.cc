#include "kernels/causal_conv.h"

#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

float silu(float x) { return x / (1 + std::exp(-x)); }

// K products and sums in FP32, then a SiLU of 6 roundings; SiLU's slope is at most 1.1. Inputs here
// keep the sum of magnitudes below 40.
constexpr double kTolerance = 40 * 8 * kRoundoff;

TEST(CausalConv, WorkedByHand) {
  const Matrix x = matrix_of(2, 1, {10, 20});
  const Matrix weight = matrix_of(1, 3, {1, 2, 3});
  Matrix history = matrix_of(2, 1, {4, 5});
  Matrix y(2, 1);
  causal_conv_silu(x, weight, std::vector<float>{-40}, history, y);
  EXPECT_FLOAT_EQ(y.values()[0], silu(4 + 10 + 30 - 40));
  EXPECT_FLOAT_EQ(y.values()[1], silu(5 + 20 + 60 - 40));
  EXPECT_THAT(history.values(), testing::ElementsAre(10, 20));
}

TEST(CausalConv, HistoryOfFewTokensShifts) {
  const Matrix weight(1, 4);
  Matrix history = matrix_of(3, 1, {1, 2, 3});
  Matrix y(1, 1);
  causal_conv_silu(matrix_of(1, 1, {4}), weight, {}, history, y);
  EXPECT_THAT(history.values(), testing::ElementsAre(2, 3, 4));
  causal_conv_silu(Matrix(0, 1), weight, {}, history, Matrix(0, 1));
  EXPECT_THAT(history.values(), testing::ElementsAre(2, 3, 4));
}

TEST(CausalConv, AgreesWithReference) {
  for (const int64_t n_tokens : {0, 1, 2, 3, 70}) {
    for (const int64_t n_taps : {1, 2, 4}) {
      const int64_t n_channels = 259;
      const Matrix x = random_matrix(n_tokens, n_channels, 1);
      const Matrix weight = random_matrix(n_channels, n_taps, 2);
      const auto bias = random_vector(n_channels, 3);
      Matrix history = random_matrix(n_taps - 1, n_channels, 4);
      Matrix expected_history = history;
      Matrix y(n_tokens, n_channels);
      Matrix expected(n_tokens, n_channels);
      causal_conv_silu(x, weight, bias, history, y);
      ref::causal_conv_silu(x, weight, bias, expected_history, expected);
      expect_near(y, expected, kTolerance);
      EXPECT_EQ(flat(history), flat(expected_history));
    }
  }
}

TEST(CausalConv, CarriesItsHistoryExactly) {
  const Matrix x = random_matrix(50, 33, 5);
  const Matrix weight = random_matrix(33, 4, 6);
  Matrix whole_history(3, 33);
  Matrix whole(50, 33);
  causal_conv_silu(x, weight, {}, whole_history, whole);
  for (const int64_t first_part : {1, 2, 3, 17, 49}) {
    Matrix history(3, 33);
    Matrix y(50, 33);
    const int64_t rest = 50 - first_part;
    causal_conv_silu(x.view().row_range(0, first_part), weight, {}, history,
                     y.view().row_range(0, first_part));
    causal_conv_silu(x.view().row_range(first_part, rest), weight, {}, history,
                     y.view().row_range(first_part, rest));
    EXPECT_EQ(flat(y), flat(whole));
    EXPECT_EQ(flat(history), flat(whole_history));
  }
}

TEST(CausalConv, DoesNotDependOnThreads) {
  const Matrix x = random_matrix(200, 130, 7);
  const Matrix weight = random_matrix(130, 4, 8);
  expect_thread_count_independent([&] {
    Matrix history(3, 130);
    Matrix y(200, 130);
    causal_conv_silu(x, weight, {}, history, y);
    return flat(y);
  });
}

using CausalConvDeathTest = CheckDeathTest;

TEST_F(CausalConvDeathTest, ChecksShapes) {
  Matrix x(2, 3);
  Matrix y(2, 3);
  Matrix weight(3, 4);
  Matrix history(2, 3);
  EXPECT_DEATH(causal_conv_silu(x, weight, {}, history, y), "history");
  Matrix fitting(3, 3);
  EXPECT_DEATH(causal_conv_silu(x, weight, {}, fitting, x), "x.data != y.data");
}

}  // namespace
}  // namespace vernier::kernels
