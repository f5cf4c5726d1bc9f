#include "kernels/elementwise.h"

#include <limits>

#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

class Elementwise : public OnEveryTarget {
 protected:
  Matrix squared(ConstMatrixView x) const {
    AnyMatrix there = activation(x);
    squared_relu(there);
    return to_host(there);
  }
  Matrix time_steps(ConstMatrixView raw, const std::vector<float>& bias, float low,
                    float high) const {
    AnyMatrix dt(raw.rows, raw.cols, DType::kF32, device());
    softplus_dt(activation(raw), vector(bias), low, high, dt);
    return to_host(dt);
  }
  float amax(float before, ConstAnyMatrixView x) const {
    Vector<float> slot = vector<float>({before});
    accumulate_amax(x, slot);
    return slot.to_host()[0];
  }
};
using ElementwiseOnEveryTarget = Elementwise;
VERNIER_ON_EVERY_TARGET(ElementwiseOnEveryTarget);

TEST_P(ElementwiseOnEveryTarget, SquaredReluWorkedByHand) {
  EXPECT_THAT(squared(matrix_of(1, 6, {-2, -0.0f, 0, 3, -kInf, kInf})).values(),
              testing::ElementsAre(0, 0, 0, 9, 0, kInf));
}

TEST_P(ElementwiseOnEveryTarget, SquaredReluKeepsNan) {
  EXPECT_TRUE(std::isnan(squared(matrix_of(1, 1, {std::nanf("")})).values()[0]));
}

TEST_P(ElementwiseOnEveryTarget,
       SquaredReluEqualsReference) {  // one product, rounded once, in both
  for (const auto& [rows, cols] : {std::pair(0, 8), {1, 1}, {130, 131}, {3, 2048}, {700, 16}}) {
    const Matrix x = rounded(random_matrix(rows, cols, 1));
    Matrix expected = x;
    ref::squared_relu(expected);
    EXPECT_EQ(flat(squared(x)), flat(rounded(expected)));
  }
}

TEST_P(ElementwiseOnEveryTarget, SquaredReluOfStridedRows) {
  const Matrix wide = rounded(random_matrix(9, 48, 1));
  for (const int64_t first : {3, 8}) {
    AnyMatrix there = activation(wide);
    squared_relu(there.view().col_range(first, 24));
    Matrix expected = wide;
    ref::squared_relu(expected.view().col_range(first, 24));
    EXPECT_EQ(flat(to_host(there)), flat(rounded(expected)));
  }
}

TEST_P(ElementwiseOnEveryTarget, SoftplusWorkedByHand) {
  const Matrix dt = time_steps(matrix_of(1, 4, {0, 21, -200, 1}), {0, 4, 0, -1}, 0, kInf);
  EXPECT_FLOAT_EQ(dt.values()[0], std::log(2.0f));
  EXPECT_EQ(dt.values()[1], 25.0f);  // beyond the threshold the value itself
  EXPECT_EQ(dt.values()[2], 0.0f);
  EXPECT_FLOAT_EQ(dt.values()[3], std::log(2.0f));
}

TEST_P(ElementwiseOnEveryTarget, SoftplusClampsAfterwards) {
  const Matrix dt = time_steps(matrix_of(1, 3, {-50, 0, 50}), std::vector<float>(3), 0.001f, 0.1f);
  EXPECT_THAT(dt.values(), testing::ElementsAre(0.001f, 0.1f, 0.1f));
}

TEST_P(ElementwiseOnEveryTarget, SoftplusAgreesWithReference) {
  for (const int64_t n_tokens : {0, 1, 300}) {
    const Matrix raw = rounded(random_matrix(n_tokens, 65, 2, 10.0f));
    const auto bias = random_vector(65, 3);
    Matrix expected = raw;
    ref::softplus_dt(raw, bias, 0, kInf, expected);
    // The rounded sum s moves softplus by at most |s| roundoffs: relative to softplus(s) > exp(s) /
    // 2 at the negative end that is |s| <= 50 of them; exp and log1p add 4.
    expect_near(time_steps(raw, bias, 0, kInf), expected, 0, 64 * kRoundoff);
  }
}

TEST_P(ElementwiseOnEveryTarget, SoftplusOfStridedRows) {
  const Matrix wide = rounded(random_matrix(20, 90, 4));
  const auto bias = random_vector(30, 5);
  const AnyMatrix there = activation(wide);
  AnyMatrix dt(20, 30, DType::kF32, device());
  softplus_dt(there.view().col_range(57, 30), vector(bias), 0, kInf, dt);
  EXPECT_EQ(flat(to_host(dt)), flat(time_steps(wide.view().col_range(57, 30), bias, 0, kInf)));
}

TEST_P(ElementwiseOnEveryTarget, GathersRows) {
  std::vector<int32_t> rows(200);
  for (int32_t i = 0; i < 200; ++i) rows[i] = (i * 77) % 150;  // some twice
  for (const int64_t n_cols : {1, 99, 128}) {
    const Matrix x = rounded(random_matrix(150, n_cols, 4));
    AnyMatrix y = new_output(200, n_cols);
    gather_rows(activation(x), vector(rows), y);
    const Matrix gathered = to_host(y);
    for (int64_t i = 0; i < 200; ++i) {
      ASSERT_TRUE(same_bits(gathered.view().row(i), x.view().row(rows[i])));
    }
  }
  AnyMatrix none = new_output(0, 8);
  gather_rows(activation(Matrix(4, 8)), vector(std::vector<int32_t>()), none);
}

TEST_P(ElementwiseOnEveryTarget, GathersStridedRows) {
  const Matrix wide = rounded(random_matrix(10, 48, 5));
  const std::vector<int32_t> rows = {9, 0, 3};
  for (const int64_t first : {3, 8}) {
    const AnyMatrix x = activation(wide);
    AnyMatrix y = activation(Matrix(3, 40));
    gather_rows(x.view().col_range(first, 32), vector(rows), y.view().col_range(first, 32));
    const Matrix gathered = to_host(y);
    for (int64_t i = 0; i < 3; ++i) {
      const auto row = wide.view().col_range(first, 32).row(rows[i]);
      ASSERT_TRUE(same_bits(gathered.view().col_range(first, 32).row(i), row));
      ASSERT_EQ(gathered.view().row(i)[first - 1], 0.0f);
    }
  }
}

TEST_P(ElementwiseOnEveryTarget, AddsStridedRows) {
  struct Case {
    int64_t rows, cols, first;
  };
  for (const auto& [rows, cols, first] : {Case{7, 11, 3}, {7, 16, 4}, {300, 40, 8}, {0, 8, 0}}) {
    const Matrix wide = random_matrix(rows, cols + 12, 5);
    const Matrix x = rounded(random_matrix(rows, cols, 6));
    Matrix expected = wide;
    ref::add(x, expected.view().col_range(first, cols));
    AnyMatrix y = to_device(wide, device());
    add(activation(x), y.view().col_range(first, cols));
    EXPECT_EQ(flat(to_host(y)), flat(expected));
  }
}

TEST_P(ElementwiseOnEveryTarget, AmaxIsTheLargestMagnitudeSoFar) {
  EXPECT_EQ(amax(0, activation(matrix_of(2, 2, {1, -3, 2, -0.0f}))), 3.0f);
  EXPECT_EQ(amax(5, activation(matrix_of(2, 2, {1, -3, 2, 0}))), 5.0f);
  EXPECT_EQ(amax(5, activation(Matrix(0, 8))), 5.0f);
  for (const auto& [rows, cols] : {std::pair(1, 1), {9, 33}, {5000, 24}, {2, 5000}}) {
    Matrix x = rounded(random_matrix(rows, cols, 7));
    float expected = 0;
    for (const float value : x.values()) expected = std::max(expected, std::abs(value));
    EXPECT_EQ(amax(0, activation(x)), expected);
    x.values().back() = -100;  // the last element counts too
    EXPECT_EQ(amax(expected, activation(x)), 100.0f);
  }
}

TEST_P(ElementwiseOnEveryTarget, AmaxOfStridedRowsIgnoresWhatIsBetween) {
  Matrix wide(6, 40);
  for (float& value : wide.view().row(2)) value = 7;
  wide.view().row(3)[11] = -2;
  const AnyMatrix there = activation(wide);
  EXPECT_EQ(amax(0, there.view().row_range(3, 3).col_range(8, 16)), 2.0f);
  EXPECT_EQ(amax(0, there.view().row_range(3, 3).col_range(11, 5)), 2.0f);
  EXPECT_EQ(amax(0, there.view().row_range(3, 3).col_range(12, 5)), 0.0f);
}

TEST_P(ElementwiseOnEveryTarget, AmaxKeepsWhatIsNotFinite) {
  EXPECT_EQ(amax(0, activation(matrix_of(1, 3, {1, -kInf, 2}))), kInf);
  EXPECT_EQ(amax(kInf, activation(matrix_of(1, 3, {1, 3, 2}))), kInf);
  EXPECT_TRUE(std::isnan(amax(kInf, activation(matrix_of(1, 3, {1, std::nanf(""), 2})))));
  EXPECT_TRUE(std::isnan(amax(std::nanf(""), activation(matrix_of(1, 3, {1, kInf, 2})))));
}

TEST(ElementwiseOnTheHost, DoesNotDependOnThreads) {
  const Matrix x = random_matrix(300, 100, 7);
  const auto bias = random_vector(100, 8);
  expect_thread_count_independent([&] {
    Matrix y = x;
    add(x, y);
    softplus_dt(y, bias, 0, kInf, y);
    squared_relu(y);
    return flat(y);
  });
}

using ElementwiseDeathTest = CheckDeathTest;

TEST_F(ElementwiseDeathTest, ChecksShapes) {
  Matrix x(2, 3);
  Matrix y(2, 4);
  EXPECT_DEATH(add(x, y), "same_shape");
  EXPECT_DEATH(softplus_dt(x, std::vector<float>(2), 0, 1, x), "bias");
  EXPECT_DEATH(gather_rows(x, std::vector<int32_t>{0, 2}, x), "all_below");
  EXPECT_DEATH(accumulate_amax(x, VectorView<float>(x.values())), "amax");
}

}  // namespace
}  // namespace vernier::kernels
