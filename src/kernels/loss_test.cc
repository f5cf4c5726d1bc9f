#include "kernels/loss.h"

#include <limits>

#include "kernels/central_differences.h"
#include "kernels/philox.h"
#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

Doubles log_softmax(const Doubles& logits) {
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit);
  Doubles result = logits;
  for (double& each : result) each -= std::log(sum);
  return result;
}

TEST(LossReference, CrossEntropyIsTheDerivative) {
  const auto logits = random_vector(7, 1, 2.0f);
  std::vector<float> g(7);
  ref::cross_entropy_gradient(logits, 3, 2.5f, g);
  expect_gradient(g, doubles(logits),
                  [&](const Doubles& values) { return -2.5 * log_softmax(values)[3]; });
}

TEST(LossReference, DivergenceIsTheDerivative) {
  const auto logits = random_vector(7, 1, 2.0f);
  const auto teacher = random_vector(7, 2, 2.0f);
  std::vector<float> g(7);
  ref::kl_gradient(teacher, logits, 2.5f, g);
  const Doubles log_p = log_softmax(doubles(teacher));
  expect_gradient(g, doubles(logits), [&](const Doubles& values) {
    const Doubles log_q = log_softmax(values);
    double sum = 0;
    for (size_t i = 0; i < 7; ++i) sum += std::exp(log_p[i]) * (log_p[i] - log_q[i]);
    return 2.5 * sum;
  });
}

// Every vector of signs over six logits: the probes' mean product is the curvature diag(p) - p p^T.
TEST(LossReference, ProbesHaveTheCurvatureAsCovariance) {
  constexpr int kVectors = 64;
  const auto logits = random_vector(6, 1, 2.0f);
  Doubles p = log_softmax(doubles(logits));
  for (double& each : p) each = std::exp(each);
  Doubles mean(36);
  for (int bits = 0; bits < kVectors; ++bits) {
    std::vector<int> signs;
    for (int i = 0; i < 6; ++i) signs.push_back(bits >> i & 1 ? -1 : 1);
    std::vector<float> g(6);
    ref::fisher_probe(logits, signs, 1, g);
    for (size_t i = 0; i < 36; ++i) mean[i] += double{g[i / 6]} * g[i % 6] / kVectors;
  }
  for (size_t i = 0; i < 36; ++i) {
    const double curvature = (i / 6 == i % 6 ? p[i / 6] : 0) - p[i / 6] * p[i % 6];
    EXPECT_NEAR(mean[i], curvature, 4 * kRoundoff);  // the probes are rounded to FP32
  }
}

std::vector<int> signs_of(uint64_t seed, uint64_t token, int64_t n) {
  std::vector<int> signs;
  for (int64_t i = 0; i < n; ++i) {
    const auto bits = probe_signs(seed, token, static_cast<uint32_t>(i / kSignsPerBlock));
    signs.push_back(bits.words[i % kSignsPerBlock / 32] >> (i % 32) & 1 ? -1 : 1);
  }
  return signs;
}

// Logits are FP32 whatever the type of activations.
class Loss : public OnEveryTarget {
 protected:
  static constexpr uint64_t kSeed = 0x9876543210;
  static constexpr uint64_t kFirstToken = (uint64_t{1} << 32) - 2;  // numbers cross 32 bits
  static constexpr float kScale = 0.75f;
  // Of a probability: the exponential's argument, at most 40 here, is rounded once, its sum and
  // factors 12 times.
  static constexpr double kRelative = 52 * kRoundoff;

  Matrix cross_entropy(ConstMatrixView logits, const std::vector<int32_t>& targets) const {
    AnyMatrix g = to_device(logits, device());
    cross_entropy_gradient(g, targets, kScale, g);
    return to_host(g);
  }
  Matrix probe(ConstMatrixView logits, uint64_t first_token = kFirstToken) const {
    AnyMatrix g(logits.rows, logits.cols, DType::kF32, device());
    fisher_probe(to_device(logits, device()), kSeed, first_token, kScale, g);
    return to_host(g);
  }
  Matrix divergence(ConstMatrixView teacher, ConstMatrixView logits) const {
    AnyMatrix g(logits.rows, logits.cols, DType::kF32, device());
    kl_gradient(to_device(teacher, device()), to_device(logits, device()), kScale, g);
    return to_host(g);
  }
};
using LossOnEveryTarget = Loss;
VERNIER_ON_EVERY_TARGET(LossOnEveryTarget);

struct Case {
  int64_t rows, cols;
};
// Around what a device's block takes at once, and a model's vocabulary.
constexpr Case kCases[] = {{0, 8},    {3, 1},    {5, 6},    {4, 127},   {4, 2048},
                           {3, 2049}, {2, 8192}, {2, 8196}, {2, 20003}, {1, 131072}};

TEST_P(LossOnEveryTarget, WorkedByHand) {
  // p = (1/4, 3/4).
  const float log3 = std::log(3.0f);
  const Matrix logits = matrix_of(2, 2, {0, log3, 0, log3});
  const Matrix g = cross_entropy(logits, {1, kNoTarget});
  EXPECT_NEAR(g.values()[0], 0.75 / 4, 1e-7);
  EXPECT_NEAR(g.values()[1], -0.75 / 4, 1e-7);
  EXPECT_EQ(g.values()[2], 0.0f);
  EXPECT_EQ(g.values()[3], 0.0f);
  const Matrix away = divergence(Matrix(2, 2), logits);
  EXPECT_NEAR(away.values()[0], -0.75 / 4, 1e-7);
  EXPECT_NEAR(away.values()[1], 0.75 / 4, 1e-7);
}

TEST_P(LossOnEveryTarget, CrossEntropyAgreesWithReference) {
  for (const auto& [rows, cols] : kCases) {
    SCOPED_TRACE(testing::Message() << rows << " x " << cols);
    const Matrix logits = random_matrix(rows, cols, 1, 4.0f);
    std::vector<int32_t> targets;
    for (int64_t t = 0; t < rows; ++t) {
      targets.push_back(t == 1 ? kNoTarget : static_cast<int32_t>((t * 7919 + cols - 1) % cols));
    }
    Matrix expected(rows, cols);
    for (int64_t t = 0; t < rows; ++t) {
      ref::cross_entropy_gradient(logits.view().row(t), targets[t], kScale, expected.view().row(t));
    }
    const Matrix found = cross_entropy(logits, targets);
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t i = 0; i < cols; ++i) {
        // At the target, 1 is taken from a probability.
        const double want = expected.view().row(t)[i];
        const double size = i == targets[t] ? 1 : std::abs(want);
        ASSERT_NEAR(found.view().row(t)[i], want, kRelative * size + 1e-30);
      }
    }
  }
}

// The sum of signed roots, at most sqrt(cols) in truth, is near 1: it loses kRelative of its terms'
// sum of magnitudes in the worst case, and that of p's root once more.
TEST_P(LossOnEveryTarget, ProbeAgreesWithReference) {
  for (const auto& [rows, cols] : kCases) {
    SCOPED_TRACE(testing::Message() << rows << " x " << cols);
    const Matrix logits = random_matrix(rows, cols, 2, 4.0f);
    const Matrix found = probe(logits);
    for (int64_t t = 0; t < rows; ++t) {
      const auto row = logits.view().row(t);
      std::vector<float> expected(static_cast<size_t>(cols));
      ref::fisher_probe(row, signs_of(kSeed, kFirstToken + static_cast<uint64_t>(t), cols), kScale,
                        expected);
      const double log_sum = ref::log_sum_exp(row);
      double magnitudes = 0;
      for (const float logit : row) magnitudes += std::exp((logit - log_sum) / 2);
      for (int64_t i = 0; i < cols; ++i) {
        const double root = std::exp((row[i] - log_sum) / 2);
        ASSERT_NEAR(found.view().row(t)[i], expected[i],
                    kScale * kRelative * root * (1 + 2 * root * magnitudes));
      }
    }
  }
}

TEST_P(LossOnEveryTarget, DivergenceAgreesWithReference) {
  for (const auto& [rows, cols] : kCases) {
    SCOPED_TRACE(testing::Message() << rows << " x " << cols);
    const Matrix teacher = random_matrix(rows, cols, 3, 4.0f);
    const Matrix noise = random_matrix(rows, cols, 4, 0.3f);
    Matrix logits = teacher;
    for (size_t i = 0; i < logits.values().size(); ++i) logits.values()[i] += noise.values()[i];
    const Matrix found = divergence(teacher, logits);
    for (int64_t t = 0; t < rows; ++t) {
      std::vector<float> expected(static_cast<size_t>(cols));
      ref::kl_gradient(teacher.view().row(t), logits.view().row(t), kScale, expected);
      const double log_sum = ref::log_sum_exp(logits.view().row(t));
      const double teacher_log_sum = ref::log_sum_exp(teacher.view().row(t));
      for (int64_t i = 0; i < cols; ++i) {
        const double p = std::exp(logits.view().row(t)[i] - log_sum);
        const double teacher_p = std::exp(teacher.view().row(t)[i] - teacher_log_sum);
        ASSERT_NEAR(found.view().row(t)[i], expected[i], kRelative * (p + teacher_p) + 1e-30);
      }
    }
  }
}

TEST_P(LossOnEveryTarget, EqualRowsHaveNoDivergence) {
  const Matrix logits = random_matrix(3, 5000, 5, 4.0f);
  EXPECT_THAT(divergence(logits, logits).values(), testing::Each(0.0f));
}

// E (g . d)^2 / 2 = KL(p, softmax(logits + d)) up to third order in d: the mean over tokens of one
// row, whose probes differ, is within five of its own standard errors.
TEST_P(LossOnEveryTarget, ProbesSeeTheDivergence) {
  constexpr int64_t kTokens = 4000;
  constexpr int64_t kVocabulary = 50;
  const Matrix row = random_matrix(1, kVocabulary, 6, 2.0f);
  const auto direction = random_vector(kVocabulary, 7, 0.01f);
  Matrix logits(kTokens, kVocabulary);
  for (int64_t t = 0; t < kTokens; ++t) {
    std::copy_n(row.values().data(), kVocabulary, logits.view().row(t).data());
  }
  Matrix moved = row;
  for (int64_t i = 0; i < kVocabulary; ++i) moved.values()[i] += direction[i];
  const Matrix probes = probe(logits);
  double sum = 0;
  double squares = 0;
  for (int64_t t = 0; t < kTokens; ++t) {
    double along = 0;
    for (int64_t i = 0; i < kVocabulary; ++i) {
      along += double{probes.view().row(t)[i]} * direction[i] / kScale;
    }
    sum += along * along / 2;
    squares += along * along * along * along / 4;
  }
  const double mean = sum / kTokens;
  const double error = std::sqrt((squares / kTokens - mean * mean) / kTokens);
  EXPECT_NEAR(mean, ref::kl_divergence(row.values(), moved.values()), 5 * error);
}

// A token's probe does not depend on the chunk that it comes in.
TEST_P(LossOnEveryTarget, ProbesFollowTokenNumbers) {
  const Matrix logits = random_matrix(7, 300, 8);
  const Matrix whole = probe(logits, 100);
  const Matrix part = probe(logits.view().row_range(3, 4), 103);
  EXPECT_EQ(flat(whole.view().row_range(3, 4)), flat(part));
  EXPECT_NE(flat(whole.view().row_range(3, 4)), flat(probe(logits.view().row_range(3, 4), 102)));
}

TEST_P(LossOnEveryTarget, InPlaceAndStrided) {
  const Matrix wide = random_matrix(6, 120, 9, 2.0f);
  const std::vector<int32_t> targets = {0, 1, 2, 3, 4, 39};
  for (const int64_t first : {0, 3, 4}) {
    const ConstMatrixView logits = wide.view().col_range(first, 40);
    const ConstMatrixView teacher = wide.view().col_range(first + 48, 40);
    const auto in_place = [&](auto op) {
      AnyMatrix there = to_device(wide, device());
      op(there.view().col_range(first, 40), there.view().col_range(first + 48, 40));
      const Matrix found = to_host(there);
      EXPECT_EQ(flat(found.view().col_range(0, first)), flat(wide.view().col_range(0, first)));
      EXPECT_EQ(flat(found.view().col_range(first + 40, 8)),
                flat(wide.view().col_range(first + 40, 8)));
      return found;
    };
    const Matrix cross = in_place([&](AnyMatrixView own, AnyMatrixView) {
      cross_entropy_gradient(own, targets, kScale, own);
    });
    const Matrix probed = in_place([&](AnyMatrixView own, AnyMatrixView) {
      fisher_probe(own, kSeed, kFirstToken, kScale, own);
    });
    const Matrix onto_own = in_place(
        [&](AnyMatrixView own, AnyMatrixView other) { kl_gradient(other, own, kScale, own); });
    const Matrix onto_teacher = in_place(
        [&](AnyMatrixView own, AnyMatrixView other) { kl_gradient(other, own, kScale, other); });
    Matrix expected(6, 40);
    const auto expect_found = [&](const Matrix& found, int64_t col, const char* what) {
      SCOPED_TRACE(what);
      expect_near(found.view().col_range(col, 40), expected, 2 * kRelative);
    };
    const auto fill = [&](auto op) {
      for (int64_t t = 0; t < 6; ++t) op(t, expected.view().row(t));
    };
    fill([&](int64_t t, std::span<float> g) {
      ref::cross_entropy_gradient(logits.row(t), targets[t], kScale, g);
    });
    expect_found(cross, first, "cross entropy");
    fill([&](int64_t t, std::span<float> g) {
      ref::fisher_probe(logits.row(t), signs_of(kSeed, kFirstToken + static_cast<uint64_t>(t), 40),
                        kScale, g);
    });
    expect_found(probed, first, "probe");
    fill([&](int64_t t, std::span<float> g) {
      ref::kl_gradient(teacher.row(t), logits.row(t), kScale, g);
    });
    expect_found(onto_own, first, "divergence");
    expect_found(onto_teacher, first + 48, "divergence onto the teacher");
  }
}

TEST_P(LossOnEveryTarget, ExcludedTokensHaveNoGradient) {
  const Matrix logits = matrix_of(1, 3, {0, -kInf, 0});
  EXPECT_EQ(cross_entropy(logits, {0}).values()[1], 0.0f);
  EXPECT_NEAR(cross_entropy(logits, {0}).values()[2], 0.375, 1e-6);
  EXPECT_EQ(probe(logits).values()[1], 0.0f);
  EXPECT_EQ(divergence(logits, logits).values()[1], 0.0f);
}

TEST_P(LossOnEveryTarget, NanShows) {
  const Matrix logits = matrix_of(1, 3, {1, std::nanf(""), 2});
  for (const Matrix& g : {cross_entropy(logits, {0}), probe(logits),
                          divergence(Matrix(1, 3), logits), divergence(logits, Matrix(1, 3))}) {
    for (const float value : g.values()) EXPECT_TRUE(std::isnan(value));
  }
}

TEST(LossOnTheHost, DoesNotDependOnThreads) {
  const Matrix logits = random_matrix(40, 500, 10);
  const Matrix teacher = random_matrix(40, 500, 11);
  expect_thread_count_independent([&] {
    Matrix g = logits;
    kl_gradient(teacher, g, 2, g);
    fisher_probe(g, 1, 2, 3, g);
    cross_entropy_gradient(g, std::vector<int32_t>(40, 3), 1, g);
    return flat(g);
  });
}

using LossDeathTest = CheckDeathTest;

TEST_F(LossDeathTest, ChecksArguments) {
  Matrix logits(2, 3);
  Matrix other(2, 4);
  EXPECT_DEATH(cross_entropy_gradient(logits, std::vector<int32_t>{0, 3}, 1, logits), "target");
  EXPECT_DEATH(cross_entropy_gradient(logits, std::vector<int32_t>{0}, 1, logits), "targets");
  EXPECT_DEATH(fisher_probe(logits, 0, 0, 1, other), "are_logits");
  EXPECT_DEATH(kl_gradient(other, logits, 1, logits), "are_logits");
}

}  // namespace
}  // namespace vernier::kernels
