#include "kernels/log_softmax.h"

#include <limits>

#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(LogSumExp, WorkedByHand) {
  EXPECT_DOUBLE_EQ(log_sum_exp(std::vector<float>{5}), 5);
  EXPECT_NEAR(log_sum_exp(std::vector<float>{0, 0, 0, 0}), std::log(4.0), 1e-15);
  EXPECT_NEAR(log_sum_exp(std::vector<float>{1000, 1000}), 1000 + std::log(2.0), 1e-12);
  EXPECT_NEAR(log_sum_exp(std::vector<float>{-kInf, 3}), 3, 1e-15);
}

// A sum of exponentials of 2 ulp each, whose arguments round once: an argument of size 10 moves its
// exponential by up to 10 roundoffs. The logarithm turns the relative error of the sum into
// absolute.
TEST(LogSumExp, AgreesWithReference) {
  for (const int64_t n : {1, 2, 15, 17, 1000, 4096}) {
    const auto logits = random_vector(n, 1, 3.0f);
    EXPECT_NEAR(log_sum_exp(logits), ref::log_sum_exp(logits), 16 * kRoundoff);
  }
}

TEST(LogSumExp, NanShows) {
  EXPECT_TRUE(std::isnan(log_sum_exp(std::vector<float>{1, std::nanf(""), 2})));
}

TEST(KlDivergence, WorkedByHand) {
  // p = (1/2, 1/2), q = (1/4, 3/4): ln 2 / 2 + ln(2/3) / 2.
  const std::vector<float> p = {0, 0};
  const std::vector<float> q = {0, std::log(3.0f)};
  EXPECT_NEAR(kl_divergence(p, q), 0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3), 1e-7);
}

TEST(KlDivergence, OfARowWithItselfIsZero) {
  const auto row = random_vector(4096, 2, 5.0f);
  EXPECT_EQ(kl_divergence(row, row), 0.0);
}

TEST(KlDivergence, IgnoresACommonShift) {
  const auto p = random_vector(500, 3);
  auto q = p;
  for (float& logit : q) logit += 2;  // rounds each logit once: differences of 1e-7
  EXPECT_NEAR(kl_divergence(p, q), 0, 1e-7);
}

// p and q each carry the error of a log-sum-exp, and terms their exponential's relative error; an
// error common to all weights cancels (the implementation's comment). Near rows must not lose the
// result: at a distance of 0.01 the divergence is 5e-5, at 0.001 it is 5e-7.
TEST(KlDivergence, AgreesWithReference) {
  for (const int64_t n : {1, 2, 31, 4096}) {
    for (const float distance : {0.001f, 0.01f, 0.3f, 3.0f}) {
      const auto p = random_vector(n, 4, 3.0f);
      const auto noise = random_vector(n, 5, distance);
      auto q = p;
      for (int64_t v = 0; v < n; ++v) q[v] += noise[v];
      const double expected = ref::kl_divergence(p, q);
      EXPECT_NEAR(kl_divergence(p, q), expected, 2 * kRoundoff + 1e-5 * expected)
          << n << " logits at distance " << distance;
    }
  }
}

TEST(KlDivergence, ExcludedTokensCountOnlyInP) {
  const std::vector<float> p = {0, -kInf, 0};
  const std::vector<float> q = {0, -kInf, 0};
  EXPECT_NEAR(kl_divergence(p, q), 0, 1e-15);
  EXPECT_EQ(kl_divergence(std::vector<float>{0, 0}, std::vector<float>{0, -kInf}), kInf);
}

TEST(Argmax, TiesGoToTheLowestIndex) {
  EXPECT_EQ(argmax(std::vector<float>{1, 7, 7, 2}), 1);
  EXPECT_EQ(argmax(std::vector<float>{-kInf, -kInf}), 0);
  EXPECT_EQ(argmax(std::vector<float>{-5}), 0);
  const auto values = random_vector(4097, 6);
  EXPECT_EQ(argmax(values), ref::argmax(values));
}

using LogSoftmaxDeathTest = CheckDeathTest;

TEST_F(LogSoftmaxDeathTest, ChecksSizes) {
  EXPECT_DEATH(log_sum_exp({}), "empty");
  EXPECT_DEATH(kl_divergence(std::vector<float>(2), std::vector<float>(3)), "size");
}

}  // namespace
}  // namespace vernier::kernels
