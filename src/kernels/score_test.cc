#include "kernels/score.h"

#include <limits>

#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// Logits are FP32 whatever the type of activations.
class Score : public OnEveryTarget {
 protected:
  std::vector<TokenScore> score(ConstMatrixView base, ConstMatrixView logits,
                                const std::vector<int32_t>& targets) const {
    std::vector<TokenScore> scores(targets.size());
    score_logits(to_device(base, device()), to_device(logits, device()), targets, scores);
    return scores;
  }
  std::vector<TokenScore> score_alone(ConstMatrixView logits,
                                      const std::vector<int32_t>& targets) const {
    std::vector<TokenScore> scores(targets.size());
    const AnyMatrix there = to_device(logits, device());
    score_logits(there, there, targets, scores);
    return scores;
  }
};
using ScoreOnEveryTarget = Score;
VERNIER_ON_EVERY_TARGET(ScoreOnEveryTarget);

TEST_P(ScoreOnEveryTarget, WorkedByHand) {
  // p = (1/2, 1/2), q = (1/4, 3/4): ln 2 / 2 + ln(2/3) / 2.
  const float log3 = std::log(3.0f);
  const Matrix p(2, 2);
  const Matrix q = matrix_of(2, 2, {0, log3, log3, 0});
  const auto scores = score(p, q, {1, kNoTarget});
  EXPECT_NEAR(scores[0].nll, std::log(4.0 / 3), 1e-7);
  EXPECT_NEAR(scores[0].kl, 0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3), 1e-7);
  EXPECT_FALSE(scores[0].is_agreed);
  EXPECT_EQ(scores[1].nll, 0);
  EXPECT_NEAR(scores[1].kl, scores[0].kl, 1e-15);
  EXPECT_TRUE(scores[1].is_agreed);  // of equals the lower
}

TEST_P(ScoreOnEveryTarget, OfARowWithItself) {
  const Matrix logits = random_matrix(5, 300, 1, 5.0f);
  const std::vector<int32_t> targets = {3, kNoTarget, 0, 299, 7};
  const auto alone = score_alone(logits, targets);
  const auto copied = score(logits, logits, targets);
  for (size_t i = 0; i < targets.size(); ++i) {
    EXPECT_EQ(alone[i].kl, 0.0);
    EXPECT_EQ(copied[i].kl, 0.0);
    EXPECT_TRUE(alone[i].is_agreed && copied[i].is_agreed);
    EXPECT_EQ(alone[i].nll, copied[i].nll);
  }
}

// The sum of exponentials is off by the relative error of its terms, which the logarithm turns into
// absolute: 4 roundoffs of the exponential and up to 10 of an argument of size 10. Divergences:
// log_softmax_test.cc.
TEST_P(ScoreOnEveryTarget, AgreesWithReference) {
  for (const int64_t n : {1, 2, 31, 2048, 4097, 131072}) {
    for (const float distance : {0.001f, 0.01f, 0.3f, 3.0f}) {
      const int64_t n_rows = n > 10000 ? 1 : 5;
      const Matrix p = random_matrix(n_rows, n, 2, 3.0f);
      const Matrix noise = random_matrix(n_rows, n, 3, distance);
      Matrix q = p;
      for (size_t i = 0; i < q.values().size(); ++i) q.values()[i] += noise.values()[i];
      std::vector<int32_t> targets;
      for (int64_t row = 0; row < n_rows; ++row) {
        targets.push_back(static_cast<int32_t>((row * 7919 + n - 1) % n));
      }
      const auto scores = score(p, q, targets);
      const auto alone = score_alone(q, targets);
      for (int64_t row = 0; row < n_rows; ++row) {
        const auto& [nll, kl, is_agreed] = scores[row];
        const auto p_row = p.view().row(row);
        const auto q_row = q.view().row(row);
        EXPECT_NEAR(nll, ref::log_sum_exp(q_row) - q_row[targets[row]], 16 * kRoundoff);
        const double expected = ref::kl_divergence(p_row, q_row);
        EXPECT_NEAR(kl, expected, 2 * kRoundoff + 1e-5 * expected)
            << n << " logits at distance " << distance;
        EXPECT_EQ(is_agreed, ref::argmax(p_row) == ref::argmax(q_row));
        EXPECT_EQ(alone[row].nll, nll);
      }
    }
  }
}

TEST_P(ScoreOnEveryTarget, RowsMayBeStrided) {
  const Matrix wide = random_matrix(6, 100, 4, 2.0f);
  const AnyMatrix there = to_device(wide, device());
  const std::vector<int32_t> targets = {0, 1, 2, 3, 4, 39};
  for (const int64_t first : {0, 3}) {
    const ConstMatrixView p = wide.view().col_range(first, 40);
    const ConstMatrixView q = wide.view().col_range(first + 48, 40);
    std::vector<TokenScore> scores(6);
    score_logits(there.view().col_range(first, 40), there.view().col_range(first + 48, 40), targets,
                 scores);
    for (size_t row = 0; row < 6; ++row) {
      EXPECT_NEAR(scores[row].kl, ref::kl_divergence(p.row(row), q.row(row)), 1e-5);
      EXPECT_NEAR(scores[row].nll, ref::log_sum_exp(q.row(row)) - q.row(row)[targets[row]],
                  16 * kRoundoff);
    }
  }
}

// The same maximum at two places of a row, in one thread's part of it and in two's.
TEST_P(ScoreOnEveryTarget, TiesGoToTheLowestIndex) {
  for (const int64_t second : {11, 12, 13, 700, 2058, 4095}) {
    Matrix p = random_matrix(1, 4096, 5);
    Matrix q = p;
    p.values()[10] = p.values()[second] = 9;
    q.values()[10] = 9;
    EXPECT_TRUE(score(p, q, {kNoTarget})[0].is_agreed) << second;
    q.values()[10] = 0;
    q.values()[second] = 9;
    EXPECT_FALSE(score(p, q, {kNoTarget})[0].is_agreed) << second;
  }
}

TEST_P(ScoreOnEveryTarget, ExcludedTokensCountOnlyInP) {
  const auto both = score(matrix_of(1, 3, {0, -kInf, 0}), matrix_of(1, 3, {0, -kInf, 0}), {0});
  EXPECT_NEAR(both[0].kl, 0, 1e-15);
  EXPECT_NEAR(both[0].nll, std::log(2.0), 1e-7);
  EXPECT_EQ(score(Matrix(1, 2), matrix_of(1, 2, {0, -kInf}), {1})[0].kl, kInf);
  EXPECT_EQ(score(Matrix(1, 2), matrix_of(1, 2, {0, -kInf}), {1})[0].nll, kInf);
}

TEST_P(ScoreOnEveryTarget, NanShows) {
  const Matrix logits = matrix_of(1, 3, {1, std::nanf(""), 2});
  EXPECT_TRUE(std::isnan(score_alone(logits, {0})[0].nll));
  EXPECT_TRUE(std::isnan(score(Matrix(1, 3), logits, {0})[0].kl));
}

TEST_P(ScoreOnEveryTarget, NoRows) { EXPECT_TRUE(score(Matrix(0, 5), Matrix(0, 5), {}).empty()); }

TEST(ScoreOnTheHost, DoesNotDependOnThreads) {
  const Matrix p = random_matrix(40, 500, 6);
  const Matrix q = random_matrix(40, 500, 7);
  expect_thread_count_independent([&] {
    std::vector<TokenScore> scores(40);
    score_logits(p, q, std::vector<int32_t>(40, 3), scores);
    std::vector<float> values;
    for (const TokenScore& score : scores) {
      values.push_back(static_cast<float>(score.nll));
      values.push_back(static_cast<float>(score.kl));
    }
    return values;
  });
}

using ScoreDeathTest = CheckDeathTest;

TEST_F(ScoreDeathTest, ChecksArguments) {
  const Matrix logits(2, 3);
  std::vector<TokenScore> scores(2);
  EXPECT_DEATH(score_logits(logits, logits, std::vector<int32_t>{0, 3}, scores), "target");
  EXPECT_DEATH(score_logits(logits, logits, std::vector<int32_t>{0}, scores), "targets");
  EXPECT_DEATH(score_logits(Matrix(2, 4), logits, std::vector<int32_t>{0, 0}, scores),
               "same_shape");
}

}  // namespace
}  // namespace vernier::kernels
