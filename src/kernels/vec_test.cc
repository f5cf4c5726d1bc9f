#include "kernels/vec.h"

#include <hwy/targets.h>

#include <bit>
#include <limits>

#include "kernels/test_support.h"

namespace vernier::kernels::vec {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Distance in units in the last place; both positive.
int64_t ulps(float a, float b) {
  return std::abs(int64_t{std::bit_cast<int32_t>(a)} - std::bit_cast<int32_t>(b));
}

// Every test runs on each instruction set of this machine.
class Vec : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { choose(GetParam()); }
  void TearDown() override { choose(0); }

 private:
  static void choose(int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().DeInit();
  }
};

TEST_P(Vec, ExponentialIsWithinTwoUlp) {
  std::vector<float> x;
  for (float value = -87.3f; value < 0; value += 0.00137f) x.push_back(value);
  for (int exponent = -60; exponent < 6; ++exponent) x.push_back(-std::ldexp(1.1f, exponent));
  x.push_back(0.0f);
  std::vector<float> y(x.size());
  exp_minus(x.data(), 0, y.data(), static_cast<int64_t>(x.size()));
  int64_t worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    worst = std::max(worst, ulps(y[i], static_cast<float>(std::exp(double{x[i]}))));
  }
  EXPECT_LE(worst, 2);
  EXPECT_EQ(y.back(), 1.0f);
}

TEST_P(Vec, ExponentialOfSpecialValues) {
  const std::vector<float> x = {-kInf, kNan, -104.0f, -1e30f, 0.0f};
  std::vector<float> y(x.size());
  const float sum = exp_minus(x.data(), 0, y.data(), 5);
  EXPECT_EQ(y[0], 0.0f);
  EXPECT_TRUE(std::isnan(y[1]));
  EXPECT_LE(y[2], std::numeric_limits<float>::min());
  EXPECT_EQ(y[3], 0.0f);
  EXPECT_EQ(y[4], 1.0f);
  EXPECT_TRUE(std::isnan(sum));
  EXPECT_TRUE(std::isnan(sum_exp(x.data(), 0, 5)));
}

TEST_P(Vec, SiluSaturatesWithoutOverflow) {
  const std::vector<float> x = {0, 1, -1, 200, -200, kInf, 3e38f, -3e38f, kNan};
  std::vector<float> y(x.size());
  const std::vector<float> ones(x.size(), 1.0f);
  multiply_silu(ones.data(), x.data(), y.data(), static_cast<int64_t>(x.size()));
  EXPECT_EQ(y[0], 0.0f);
  EXPECT_FLOAT_EQ(y[1], 0.731058578630f);
  EXPECT_FLOAT_EQ(y[2], -0.268941421370f);
  EXPECT_EQ(y[3], 200.0f);
  EXPECT_EQ(y[4], 0.0f);
  EXPECT_EQ(y[5], kInf);
  EXPECT_EQ(y[6], 3e38f);
  EXPECT_EQ(y[7], 0.0f);
  EXPECT_TRUE(std::isnan(y[8]));
}

// Every length crosses the end of a vector at another lane.
TEST_P(Vec, ReductionsHandleEveryTail) {
  for (int64_t n = 0; n <= 70; ++n) {
    const std::vector<float> x = random_vector(n, 7);
    double squares = 0;
    double exponentials = 0;
    float largest = -kInf;
    for (const float value : x) {
      squares += double{value} * value;
      exponentials += std::exp(double{value} - 3);
      largest = std::max(largest, value);
    }
    // At most n roundings of positive terms, and 3 more an exponential (2 ulp, its argument).
    const double bound = static_cast<double>(n + 4) * kRoundoff;
    EXPECT_NEAR(sum_squares(x.data(), n), squares, bound * squares);
    EXPECT_EQ(vec::max(x.data(), n), largest);
    EXPECT_NEAR(sum_exp(x.data(), 3, n), exponentials, 16 * kRoundoff * exponentials);
    std::vector<float> y(x.size());
    EXPECT_NEAR(exp_minus(x.data(), 3, y.data(), n), exponentials, (bound + 1e-6) * exponentials);
  }
}

TEST_P(Vec, DotsOfEveryBlockShape) {
  for (const int64_t n_w : {0, 1, 3, 4, 5, 9}) {
    for (const int64_t n_x : {0, 1, 2, 3, 4, 7}) {
      for (const int64_t n : {1, 15, 16, 33, 200}) {
        const Matrix w = random_matrix(n_w, n, 1);
        const Matrix x = random_matrix(n_x, n, 2);
        Matrix y(n_x, n_w);
        dots({w.values().data(), n, n_w}, {x.values().data(), n, n_x}, n, y.values().data(), n_w);
        for (int64_t i = 0; i < n_x; ++i) {
          for (int64_t j = 0; j < n_w; ++j) {
            double sum = 0;
            double magnitude = 0;
            for (int64_t k = 0; k < n; ++k) {
              const double term = double{w.view().row(j)[k]} * x.view().row(i)[k];
              sum += term;
              magnitude += std::abs(term);
            }
            // The worst case of summation: n roundings of the sum of magnitudes.
            ASSERT_NEAR(y.view().row(i)[j], sum,
                        static_cast<double>(n + 1) * kRoundoff * magnitude);
          }
        }
      }
    }
  }
}

// The terms here are of size 10 at most: 2 ulp of an exponential and one rounding of its argument
// each.
TEST_P(Vec, WeightedExponentialsOfEveryTail) {
  for (int64_t n = 1; n <= 35; ++n) {
    const std::vector<float> p = random_vector(n, 3);
    const std::vector<float> q = random_vector(n, 4);
    double total = 0;
    double weighted = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double e = std::exp(double{p[i]} - 4);
      total += e;
      weighted += e * ((double{p[i]} - 4) - (double{q[i]} - 3));
    }
    const ExpSums found = sum_exp_times_difference(p.data(), 4, q.data(), 3, n);
    EXPECT_NEAR(found.sum, total, 16 * kRoundoff * total);
    EXPECT_NEAR(found.weighted, weighted, 160 * kRoundoff * total);
  }
}

TEST_P(Vec, ConvolutionOfEveryTail) {
  for (int64_t n = 1; n <= 35; ++n) {
    const Matrix inputs = random_matrix(2, n, 5);
    const Matrix taps = random_matrix(2, n, 6);
    const std::vector<float> bias = random_vector(n, 7);
    const float* rows[] = {inputs.view().row(0).data(), inputs.view().row(1).data()};
    std::vector<float> y(n);
    conv_silu(rows, taps.values().data(), 2, bias.data(), y.data(), n);
    for (int64_t c = 0; c < n; ++c) {
      double v = bias[c];
      for (int64_t j = 0; j < 2; ++j) v += double{taps.view().row(j)[c]} * rows[j][c];
      // Four roundings of sums below 20, six of the SiLU, whose slope is at most 1.1.
      EXPECT_NEAR(y[c], v / (1 + std::exp(-v)), 200 * kRoundoff);
    }
  }
}

TEST_P(Vec, SsmStepOfEveryTail) {
  for (int64_t n = 1; n <= 35; ++n) {
    const std::vector<float> x = random_vector(3, 8);
    const std::vector<float> b = random_vector(n, 9);
    const std::vector<float> c = random_vector(n, 10);
    Matrix state = random_matrix(3, n + 2, 11);  // rows further apart than they are long
    const Matrix before = state;
    std::vector<float> y(3);
    ssm_step({.head_dim = 3,
              .state_dim = n,
              .decay = 0.5f,
              .dt = 0.25f,
              .skip = 2,
              .x = x.data(),
              .b = b.data(),
              .c = c.data()},
             state.values().data(), n + 2, y.data());
    for (int64_t p = 0; p < 3; ++p) {
      double sum = 2.0 * x[p];
      double magnitude = std::abs(sum);
      for (int64_t i = 0; i < n; ++i) {
        const double next = 0.5 * before.view().row(p)[i] + 0.25 * x[p] * b[i];
        EXPECT_NEAR(state.view().row(p)[i], next,
                    8 * kRoundoff);  // three roundings of values below 4
        sum += next * c[i];
        magnitude += std::abs(next * c[i]);
      }
      EXPECT_NEAR(y[p], sum, static_cast<double>(n + 40) * kRoundoff * (magnitude + 1));
      EXPECT_EQ(state.view().row(p)[n], before.view().row(p)[n]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, Vec, testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& info) { return std::string(hwy::TargetName(info.param)); });

}  // namespace
}  // namespace vernier::kernels::vec
