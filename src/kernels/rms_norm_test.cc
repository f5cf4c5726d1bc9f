#include "kernels/rms_norm.h"

#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

// The mean square is a sum of positive terms (n roundings at worst, n / lanes in truth), halved by
// the root; the products round three times, the gate six more (an exponential of 2 ulp, a sum, a
// quotient, two products).
double norm_tolerance(int64_t n) { return (static_cast<double>(n) / 2 + 10) * kRoundoff; }

TEST(RmsNorm, WorkedByHand) {
  const Matrix x = matrix_of(1, 2, {3, 4});  // mean square 12.5
  Matrix y(1, 2);
  rms_norm(x, std::vector<float>{1, 2}, 0, y);
  EXPECT_FLOAT_EQ(y.values()[0], 3 / std::sqrt(12.5f));
  EXPECT_FLOAT_EQ(y.values()[1], 8 / std::sqrt(12.5f));
}

TEST(RmsNorm, EpsilonIsInsideTheRoot) {
  const Matrix x = matrix_of(1, 2, {0, 0});
  Matrix y(1, 2);
  rms_norm(x, std::vector<float>{1, 1}, 1e-5f, y);
  EXPECT_THAT(y.values(), testing::Each(0.0f));
  rms_norm(matrix_of(1, 2, {1, 1}), std::vector<float>{1, 1}, 3, y);
  EXPECT_THAT(y.values(), testing::Each(0.5f));
}

TEST(RmsNorm, AgreesWithReference) {
  for (const int64_t n_tokens : {0, 1, 5, 67}) {
    for (const int64_t n_channels : {1, 31, 256, 1000}) {
      const Matrix x = random_matrix(n_tokens, n_channels, 1, 3.0f);
      const auto weight = random_vector(n_channels, 2);
      Matrix y(n_tokens, n_channels);
      Matrix expected(n_tokens, n_channels);
      rms_norm(x, weight, 1e-5f, y);
      ref::rms_norm(x, weight, 1e-5f, expected);
      expect_near(y, expected, 0, norm_tolerance(n_channels));
    }
  }
}

TEST(RmsNorm, InPlaceAndStrided) {
  Matrix wide = random_matrix(9, 40, 3);
  const MatrixView part = wide.view().col_range(4, 24);
  const auto weight = random_vector(24, 4);
  Matrix expected(9, 24);
  rms_norm(part, weight, 1e-5f, expected);
  rms_norm(part, weight, 1e-5f, part);
  EXPECT_EQ(flat(part), flat(expected));
}

// A power of two scales the input and the result alike when epsilon is 0.
TEST(RmsNorm, IsScaleInvariant) {
  const Matrix x = random_matrix(4, 100, 5);
  Matrix scaled = x;
  for (float& value : scaled.values()) value *= 1024;
  const auto weight = random_vector(100, 6);
  Matrix y(4, 100);
  Matrix y_scaled(4, 100);
  rms_norm(x, weight, 0, y);
  rms_norm(scaled, weight, 0, y_scaled);
  EXPECT_EQ(flat(y), flat(y_scaled));
}

TEST(GatedGroupNorm, WorkedByHand) {
  // silu(0) = 0 silences the second channel of the first group; the groups do not see one another.
  const Matrix x = matrix_of(1, 4, {2, 5, 100, 100});
  const Matrix gate = matrix_of(1, 4, {30, 0, 30, 30});  // silu(30) = 30 in FP32
  Matrix y(1, 4);
  gated_group_norm(x, gate, std::vector<float>{1, 1, 1, 2}, 2, 0, y);
  EXPECT_FLOAT_EQ(y.values()[0], std::sqrt(2.0f));
  EXPECT_EQ(y.values()[1], 0.0f);
  EXPECT_FLOAT_EQ(y.values()[2], 1.0f);
  EXPECT_FLOAT_EQ(y.values()[3], 2.0f);
}

TEST(GatedGroupNorm, AgreesWithReference) {
  for (const int64_t n_tokens : {0, 1, 70}) {
    for (const int64_t n_groups : {1, 3, 8}) {
      const int64_t n_channels = n_groups * 35;
      const Matrix x = random_matrix(n_tokens, n_channels, 7);
      const Matrix gate = random_matrix(n_tokens, n_channels, 8, 4.0f);
      const auto weight = random_vector(n_channels, 9);
      Matrix y(n_tokens, n_channels);
      Matrix expected(n_tokens, n_channels);
      gated_group_norm(x, gate, weight, n_groups, 1e-5f, y);
      ref::gated_group_norm(x, gate, weight, n_groups, 1e-5f, expected);
      expect_near(y, expected, 0, norm_tolerance(35));
      Matrix in_place = x;
      gated_group_norm(in_place, gate, weight, n_groups, 1e-5f, in_place);
      EXPECT_EQ(flat(in_place), flat(y));
    }
  }
}

TEST(RmsNorm, DoesNotDependOnThreads) {
  const Matrix x = random_matrix(150, 256, 10);
  const auto weight = random_vector(256, 11);
  expect_thread_count_independent([&] {
    Matrix y(150, 256);
    gated_group_norm(x, x, weight, 4, 1e-5f, y);
    rms_norm(y, weight, 1e-5f, y);
    return flat(y);
  });
}

using RmsNormDeathTest = CheckDeathTest;

TEST_F(RmsNormDeathTest, ChecksShapes) {
  Matrix x(2, 6);
  EXPECT_DEATH(rms_norm(x, std::vector<float>(5), 0, x), "has_size\\(weight");
  EXPECT_DEATH(gated_group_norm(x, x, std::vector<float>(6), 4, 0, x), "n_groups");
}

}  // namespace
}  // namespace vernier::kernels
