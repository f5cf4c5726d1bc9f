#include "kernels/rms_norm.h"

#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

class Norm : public OnEveryTarget {
 protected:
  // The mean square is a sum of positive terms (n roundings at worst, n / lanes in truth), halved
  // by the root; the products round three times, the gate six more (an exponential of 2 ulp, a sum,
  // a quotient, two products). A BF16 output is rounded once more.
  double tolerance(int64_t n) const {
    const double sum = (static_cast<double>(n) / 2 + 10) * kRoundoff;
    return is_bf16() ? sum + roundoff() : sum;
  }

  Matrix rms_normed(ConstMatrixView x, const std::vector<float>& weight, float eps) const {
    AnyMatrix y = new_output(x.rows, x.cols);
    rms_norm(activation(x), vector(weight), eps, y);
    return to_host(y);
  }
  Matrix gate_normed(ConstMatrixView x, ConstMatrixView gate, const std::vector<float>& weight,
                     int64_t n_groups, float eps) const {
    AnyMatrix y = new_output(x.rows, x.cols);
    gated_group_norm(activation(x), activation(gate), vector(weight), n_groups, eps, y);
    return to_host(y);
  }
};
class RmsNormOnEveryTarget : public Norm {};
class GatedGroupNormOnEveryTarget : public Norm {};
VERNIER_ON_EVERY_TARGET(RmsNormOnEveryTarget);
VERNIER_ON_EVERY_TARGET(GatedGroupNormOnEveryTarget);

TEST_P(RmsNormOnEveryTarget, WorkedByHand) {
  const Matrix y = rms_normed(matrix_of(1, 2, {3, 4}), {1, 2}, 0);  // mean square 12.5
  EXPECT_NEAR(y.values()[0], 3 / std::sqrt(12.5), 4 * roundoff());
  EXPECT_NEAR(y.values()[1], 8 / std::sqrt(12.5), 4 * 4 * roundoff());
}

TEST_P(RmsNormOnEveryTarget, EpsilonIsInsideTheRoot) {
  EXPECT_THAT(rms_normed(matrix_of(1, 2, {0, 0}), {1, 1}, 1e-5f).values(), testing::Each(0.0f));
  EXPECT_THAT(rms_normed(matrix_of(1, 2, {1, 1}), {1, 1}, 3).values(), testing::Each(0.5f));
}

// Widths of each way a device takes a row: by a warp, by blocks of two sizes, by single elements.
TEST_P(RmsNormOnEveryTarget, AgreesWithReference) {
  for (const int64_t n_tokens : {0, 1, 5, 67}) {
    for (const int64_t n_channels : {1, 8, 31, 256, 1000, 1003, 1024, 2688, 3136, 8192, 8200}) {
      SCOPED_TRACE(testing::Message() << n_tokens << " x " << n_channels);
      const Matrix x = rounded(random_matrix(n_tokens, n_channels, 1, 3.0f));
      const auto weight = random_vector(n_channels, 2);
      Matrix expected(n_tokens, n_channels);
      ref::rms_norm(x, weight, 1e-5f, expected);
      expect_near(rms_normed(x, weight, 1e-5f), expected, 0, tolerance(n_channels));
    }
  }
}

// Of an FP32 residual stream, and into FP32.
TEST_P(RmsNormOnEveryTarget, TakesMixedTypes) {
  for (const int64_t n_channels : {24, 300, 2048}) {
    const Matrix x = random_matrix(9, n_channels, 1);
    const auto weight = random_vector(n_channels, 2);
    Matrix expected(9, n_channels);
    ref::rms_norm(x, weight, 1e-5f, expected);
    AnyMatrix y = new_output(9, n_channels);
    rms_norm(to_device(x, device()), vector(weight), 1e-5f, y);
    expect_near(to_host(y), expected, 0, tolerance(n_channels));

    const Matrix coarse = rounded(x);
    ref::rms_norm(coarse, weight, 1e-5f, expected);
    AnyMatrix fine = new_zeros(9, n_channels, device());
    rms_norm(activation(coarse), vector(weight), 1e-5f, fine);
    expect_near(to_host(fine), expected, 0, (n_channels / 2.0 + 10) * kRoundoff);
  }
}

TEST_P(RmsNormOnEveryTarget, InPlaceAndStrided) {
  for (const int64_t first : {3, 4, 8}) {
    const Matrix values = random_matrix(9, 40, 3);
    AnyMatrix wide = activation(values);
    const AnyMatrixView part = wide.view().col_range(first, 24);
    const auto weight = vector(random_vector(24, 4));
    AnyMatrix apart = new_output(9, 24);
    copy_matrix(part, apart);
    AnyMatrix expected = new_output(9, 24);
    rms_norm(part, weight, 1e-5f, expected);
    Matrix reference(9, 24);
    ref::rms_norm(to_host(apart), random_vector(24, 4), 1e-5f, reference);
    expect_near(to_host(expected), reference, 0, tolerance(24));
    rms_norm(part, weight, 1e-5f, part);
    EXPECT_EQ(flat(to_host(part)), flat(to_host(expected)));
    // Nothing beside the part has changed.
    const auto before = rounded(values);
    EXPECT_EQ(flat(to_host(wide.view().col_range(0, first))),
              flat(before.view().col_range(0, first)));
  }
}

// A power of two scales the input and the result alike when epsilon is 0.
TEST_P(RmsNormOnEveryTarget, IsScaleInvariant) {
  const Matrix x = random_matrix(4, 100, 5);
  Matrix scaled = x;
  for (float& value : scaled.values()) value *= 1024;
  const auto weight = random_vector(100, 6);
  EXPECT_EQ(flat(rms_normed(x, weight, 0)), flat(rms_normed(scaled, weight, 0)));
}

TEST_P(RmsNormOnEveryTarget, DoesNotDependOnThreads) {
  const Matrix x = random_matrix(150, 256, 10);
  const auto weight = random_vector(256, 11);
  expect_thread_count_independent(
      [&] { return flat(rms_normed(gate_normed(x, x, weight, 4, 1e-5f), weight, 1e-5f)); });
}

TEST_P(GatedGroupNormOnEveryTarget, WorkedByHand) {
  // silu(0) = 0 silences the second channel of the first group; the groups do not see one another.
  const Matrix x = matrix_of(1, 4, {2, 5, 100, 100});
  const Matrix gate = matrix_of(1, 4, {30, 0, 30, 30});  // silu(30) = 30 in FP32
  const Matrix y = gate_normed(x, gate, {1, 1, 1, 2}, 2, 0);
  EXPECT_NEAR(y.values()[0], std::sqrt(2.0), 8 * roundoff());
  EXPECT_EQ(y.values()[1], 0.0f);
  EXPECT_NEAR(y.values()[2], 1.0, 8 * roundoff());
  EXPECT_NEAR(y.values()[3], 2.0, 16 * roundoff());
}

TEST_P(GatedGroupNormOnEveryTarget, AgreesWithReference) {
  for (const int64_t n_tokens : {0, 1, 70}) {
    for (const int64_t n_groups : {1, 3, 8}) {
      for (const int64_t width : {35, 40, 960, 1280, 2048}) {
        SCOPED_TRACE(testing::Message() << n_tokens << " x " << n_groups << " x " << width);
        const int64_t n_channels = n_groups * width;
        const Matrix x = rounded(random_matrix(n_tokens, n_channels, 7));
        const Matrix gate = rounded(random_matrix(n_tokens, n_channels, 8, 4.0f));
        const auto weight = random_vector(n_channels, 9);
        Matrix expected(n_tokens, n_channels);
        ref::gated_group_norm(x, gate, weight, n_groups, 1e-5f, expected);
        const Matrix y = gate_normed(x, gate, weight, n_groups, 1e-5f);
        expect_near(y, expected, 0, tolerance(width));
        AnyMatrix in_place = activation(x);
        gated_group_norm(in_place, activation(gate), vector(weight), n_groups, 1e-5f, in_place);
        EXPECT_EQ(flat(to_host(in_place)), flat(y));
      }
    }
  }
}

// The gate lies among other columns, as it does in a projection's output.
TEST_P(GatedGroupNormOnEveryTarget, TakesStridedGates) {
  for (const int64_t first : {0, 1, 8}) {
    const Matrix wide = rounded(random_matrix(5, 100, 8));
    const Matrix x = rounded(random_matrix(5, 64, 7));
    const auto weight = random_vector(64, 9);
    const auto columns = wide.view().col_range(first, 64);
    const AnyMatrix there = activation(wide);
    AnyMatrix y = new_output(5, 64);
    gated_group_norm(activation(x), there.view().col_range(first, 64), vector(weight), 4, 1e-5f, y);
    Matrix expected(5, 64);
    ref::gated_group_norm(x, columns, weight, 4, 1e-5f, expected);
    expect_near(to_host(y), expected, 0, tolerance(16));
  }
}

using RmsNormDeathTest = CheckDeathTest;

TEST_F(RmsNormDeathTest, ChecksShapes) {
  Matrix x(2, 6);
  EXPECT_DEATH(rms_norm(x, std::vector<float>(5), 0, x), "weight.size == x.cols");
  EXPECT_DEATH(gated_group_norm(x, x, std::vector<float>(6), 4, 0, x), "n_groups");
}

}  // namespace
}  // namespace vernier::kernels
