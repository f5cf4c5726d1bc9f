#include "kernels/attention.h"

#include <limits>

#include "base/error.h"
#include "formats/e4m3.h"
#include "kernels/linear_test_support.h"
#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

class Attention : public OnEveryTarget {
 protected:
  static void SetUpTestSuite() { configure_host_threads(); }

  // Outputs are weighted means of values of size 1. A score sums head_dim products of size 1 /
  // sqrt(head_dim) and lies within 10, so its error is below 64 roundoffs; the weight takes it
  // over, and adds few. With BF16 the weights round once, which moves a mean of values within 5 by
  // up to 5 roundoffs, and so does the output.
  double tolerance() const { return 200 * kRoundoff + (is_bf16() ? 10 * roundoff() : 0); }

  Matrix random(int64_t rows, int64_t cols, uint32_t seed, float deviation = 1.0f) const {
    return rounded(random_matrix(rows, cols, seed, deviation));
  }

  // One sequence.
  Matrix attend(const AttentionShape& shape, ConstMatrixView q, ConstMatrixView k,
                ConstMatrixView v, int64_t first_position) const {
    const AnyMatrix keys = activation(k);
    const AnyMatrix values = activation(v);
    AnyMatrix y = new_output(q.rows, q.cols);
    const AttentionSequence sequence{0, q.rows, first_position, keys, values};
    causal_attention(shape, activation(q), {&sequence, 1}, y);
    return to_host(y);
  }
};
using AttentionOnEveryTarget = Attention;
VERNIER_ON_EVERY_TARGET(AttentionOnEveryTarget);

TEST_P(AttentionOnEveryTarget, WorkedByHand) {
  // Equal keys: each token gets the mean of the values so far.
  const AttentionShape shape{.n_heads = 1, .n_kv_heads = 1, .head_dim = 2};
  const Matrix v = matrix_of(3, 2, {3, 0, 5, 2, 1, 7});
  EXPECT_THAT(attend(shape, random(3, 2, 1), Matrix(3, 2), v, 0).values(),
              testing::Pointwise(testing::FloatEq(), {3.0f, 0.0f, 4.0f, 1.0f, 3.0f, 3.0f}));
}

TEST_P(AttentionOnEveryTarget, ScoresAreScaled) {
  const AttentionShape shape{.n_heads = 1, .n_kv_heads = 1, .head_dim = 4};
  const Matrix q = matrix_of(1, 4, {2, 0, 0, 0});
  const Matrix k = matrix_of(2, 4, {0, 0, 0, 0, 1, 0, 0, 0});  // scores 0 and 2 / sqrt(4)
  const Matrix v = matrix_of(2, 4, {0, 0, 0, 0, 1, 1, 1, 1});
  const float expected = std::exp(1.0f) / (1 + std::exp(1.0f));
  EXPECT_NEAR(attend(shape, q, k, v, 1).values()[0], expected, 4 * roundoff());
}

TEST_P(AttentionOnEveryTarget, AgreesWithReference) {
  const AttentionShape shapes[] = {
      {.n_heads = 1, .n_kv_heads = 1, .head_dim = 3},
      {.n_heads = 4, .n_kv_heads = 2, .head_dim = 16},
      {.n_heads = 6, .n_kv_heads = 2, .head_dim = 33},
      {.n_heads = 70, .n_kv_heads = 1, .head_dim = 8},  // more heads than a tile has rows
  };
  for (const AttentionShape& shape : shapes) {
    for (const int64_t n_tokens : {0, 1, 2, 31, 65}) {
      for (const int64_t first_position : {0, 1, 255, 256, 300}) {
        const int64_t n_keys = first_position + n_tokens + 3;  // a cache longer than needed
        const Matrix q = random(n_tokens, shape.n_heads * shape.head_dim, 1);
        const Matrix k = random(n_keys, shape.n_kv_heads * shape.head_dim, 2);
        const Matrix v = random(n_keys, shape.n_kv_heads * shape.head_dim, 3);
        Matrix expected(n_tokens, q.cols());
        ref::causal_attention(shape, q, k, v, first_position, expected);
        expect_near(attend(shape, q, k, v, first_position), expected, tolerance());
      }
    }
  }
}

// The widths that device kernels are built for, whole and padded; 200 tokens fill tiles of both
// heights.
TEST_P(AttentionOnEveryTarget, AgreesWithReferenceForWideHeads) {
  const AttentionShape shapes[] = {
      {.n_heads = 32, .n_kv_heads = 2, .head_dim = 128},
      {.n_heads = 4, .n_kv_heads = 4, .head_dim = 64},
      {.n_heads = 5, .n_kv_heads = 1, .head_dim = 80},
      {.n_heads = 2, .n_kv_heads = 1, .head_dim = 256},
      {.n_heads = 2, .n_kv_heads = 2, .head_dim = 131},
  };
  for (const AttentionShape& shape : shapes) {
    for (const int64_t n_tokens : {1, 200}) {
      const int64_t n_keys = n_tokens + 70;
      const Matrix q = random(n_tokens, shape.n_heads * shape.head_dim, 1);
      const Matrix k = random(n_keys, shape.n_kv_heads * shape.head_dim, 2);
      const Matrix v = random(n_keys, shape.n_kv_heads * shape.head_dim, 3);
      Matrix expected(n_tokens, q.cols());
      ref::causal_attention(shape, q, k, v, 70, expected);
      expect_near(attend(shape, q, k, v, 70), expected, tolerance());
    }
  }
}

// Rows enough for the device's tall tiles, whose causal part is many blocks long.
TEST_P(AttentionOnEveryTarget, AgreesWithReferenceForManyTokens) {
  const AttentionShape shape{.n_heads = 64, .n_kv_heads = 4, .head_dim = 32};
  const Matrix q = random(700, 64 * 32, 1);
  const Matrix k = random(700, 4 * 32, 2);
  const Matrix v = random(700, 4 * 32, 3);
  Matrix expected(700, 64 * 32);
  ref::causal_attention(shape, q, k, v, 0, expected);
  expect_near(attend(shape, q, k, v, 0), expected, tolerance());
}

// Few rows over many keys, which a device splits among blocks.
TEST_P(AttentionOnEveryTarget, AgreesWithReferenceForLongCaches) {
  const AttentionShape shape{.n_heads = 6, .n_kv_heads = 2, .head_dim = 40};
  for (const int64_t n_tokens : {1, 30}) {
    for (const int64_t first_position : {511, 5000}) {
      const Matrix q = random(n_tokens, 240, 4, 3.0f);
      const Matrix k = random(first_position + n_tokens, 80, 5);
      const Matrix v = random(first_position + n_tokens, 80, 6);
      Matrix expected(n_tokens, 240);
      ref::causal_attention(shape, q, k, v, first_position, expected);
      expect_near(attend(shape, q, k, v, first_position), expected, tolerance());
    }
  }
}

// Sequences in any order of rows, with rows between them that are nobody's, some of them empty.
TEST_P(AttentionOnEveryTarget, ManySequencesInOneCall) {
  const AttentionShape shape{.n_heads = 6, .n_kv_heads = 2, .head_dim = 24};
  struct Part {
    int64_t first_row, n_rows, first_position;
  };
  std::vector<Part> parts = {{40, 30, 0}, {0, 1, 900}, {2, 37, 5},
                             {71, 0, 3},  {72, 70, 1}, {39, 1, 0}};
  for (int64_t i = 0; i < 70; ++i) parts.push_back({142 + i, 1, i});  // more than a launch takes
  const Matrix q = random(212, 144, 1);
  std::vector<AnyMatrix> caches;
  std::vector<AttentionSequence> sequences;
  Matrix expected(212, 144);
  for (const auto& [first_row, n_rows, first_position] : parts) {
    const int64_t n_keys = first_position + n_rows;
    const Matrix k = random(n_keys, 48, 2 * caches.size() + 2);
    const Matrix v = random(n_keys, 48, 2 * caches.size() + 3);
    ref::causal_attention(shape, q.view().row_range(first_row, n_rows), k, v, first_position,
                          expected.view().row_range(first_row, n_rows));
    caches.push_back(activation(k));
    caches.push_back(activation(v));
    const size_t n = caches.size();
    sequences.push_back({first_row, n_rows, first_position, caches[n - 2], caches[n - 1]});
  }
  const AnyMatrix queries = activation(q);
  AnyMatrix y = activation(Matrix(212, 144));
  causal_attention(shape, queries, sequences, y);
  expect_near(to_host(y), expected, tolerance());
  causal_attention(shape, queries, {}, y);
  expect_near(to_host(y), expected, tolerance());
}

// Scores of thousands: the running maximum keeps the exponentials in range. A score of 4000 has an
// error of a few units of 2^-12, which moves a weight by as much.
TEST_P(AttentionOnEveryTarget, LargeScoresStayFinite) {
  const AttentionShape shape{.n_heads = 2, .n_kv_heads = 1, .head_dim = 16};
  const Matrix q = random(300, 32, 4, 100.0f);
  const Matrix k = random(300, 16, 5, 10.0f);
  const Matrix v = random(300, 16, 6);
  Matrix expected(300, 32);
  ref::causal_attention(shape, q, k, v, 0, expected);
  expect_near(attend(shape, q, k, v, 0), expected, 4e-3 + tolerance());
}

TEST_P(AttentionOnEveryTarget, PiecesEqualTheWhole) {
  const AttentionShape shape{.n_heads = 4, .n_kv_heads = 2, .head_dim = 16};
  const Matrix q = random(90, 64, 7);
  const Matrix k = random(90, 32, 8);
  const Matrix v = random(90, 32, 9);
  const Matrix whole = attend(shape, q, k, v, 0);
  for (const int64_t part : {1, 7, 32, 64}) {
    for (int64_t first = 0; first < 90; first += part) {
      const int64_t n = std::min(part, 90 - first);
      const Matrix piece = attend(shape, q.view().row_range(first, n), k, v, first);
      expect_near(piece, whole.view().row_range(first, n), 2 * tolerance());
    }
  }
}

TEST_P(AttentionOnEveryTarget, FutureKeysDoNotMatter) {
  const AttentionShape shape{.n_heads = 2, .n_kv_heads = 2, .head_dim = 8};
  const Matrix q = random(40, 16, 10);
  Matrix k = random(40, 16, 11);
  Matrix v = random(40, 16, 12);
  const Matrix before = attend(shape, q, k, v, 0);
  for (float& value : k.view().row(30)) value += 5;
  for (float& value : v.view().row(30)) value += 5;
  const Matrix after = attend(shape, q, k, v, 0);
  EXPECT_EQ(flat(before.view().row_range(0, 30)), flat(after.view().row_range(0, 30)));
  EXPECT_NE(flat(before.view().row_range(30, 1)), flat(after.view().row_range(30, 1)));
}

TEST_P(AttentionOnEveryTarget, RowsBeyondTheSequenceAreNotRead) {
  const AttentionShape shape{.n_heads = 2, .n_kv_heads = 1, .head_dim = 16};
  const Matrix q = random(5, 32, 10);
  const Matrix k = random(25, 16, 11);
  const Matrix v = random(25, 16, 12);
  Matrix long_k(100, 16), long_v(100, 16);
  for (float& value : long_k.values()) value = std::nanf("");
  for (float& value : long_v.values()) value = std::numeric_limits<float>::infinity();
  std::copy(k.values().begin(), k.values().end(), long_k.values().begin());
  std::copy(v.values().begin(), v.values().end(), long_v.values().begin());
  EXPECT_EQ(flat(attend(shape, q, long_k, long_v, 20)), flat(attend(shape, q, k, v, 20)));
}

TEST_P(AttentionOnEveryTarget, MayOverwriteItsQueries) {
  for (const int64_t first_col : {5, 8}) {  // not aligned to 16 bytes, and aligned
    const AttentionShape shape{.n_heads = 4, .n_kv_heads = 2, .head_dim = 8};
    const Matrix wide = random(70, 56, 13);  // q inside a wider matrix
    const ConstMatrixView q = wide.view().col_range(first_col, 32);
    const Matrix k = random(70, 16, 14);
    const Matrix v = random(70, 16, 15);
    const Matrix expected = attend(shape, q, k, v, 0);
    AnyMatrix in_place = activation(wide);
    const AnyMatrixView inside = in_place.view().col_range(first_col, 32);
    const AnyMatrix keys = activation(k);
    const AnyMatrix values = activation(v);
    const AttentionSequence sequence{0, 70, 0, keys, values};
    causal_attention(shape, inside, {&sequence, 1}, inside);
    const Matrix after = to_host(in_place);
    EXPECT_EQ(flat(after.view().col_range(first_col, 32)), flat(expected));
    EXPECT_EQ(flat(after.view().col_range(0, first_col)),
              flat(wide.view().col_range(0, first_col)));
    EXPECT_EQ(flat(after.view().col_range(first_col + 32, 24 - first_col)),
              flat(wide.view().col_range(first_col + 32, 24 - first_col)));
  }
}

// Keys and values side by side in rows of a wider cache, at even and odd places.
TEST_P(AttentionOnEveryTarget, CachesMayBeStrided) {
  const AttentionShape shape{.n_heads = 4, .n_kv_heads = 2, .head_dim = 16};
  const Matrix q = random(50, 64, 16);
  const Matrix cache = random(60, 80, 17);
  for (const int64_t first_col : {0, 3, 16}) {
    const ConstMatrixView k = cache.view().col_range(first_col, 32);
    const ConstMatrixView v = cache.view().col_range(first_col + 32, 32);
    Matrix expected(50, 64);
    ref::causal_attention(shape, q, k, v, 10, expected);
    const AnyMatrix there = activation(cache);
    AnyMatrix y = new_output(50, 64);
    const AttentionSequence sequence{0, 50, 10, there.view().col_range(first_col, 32),
                                     there.view().col_range(first_col + 32, 32)};
    causal_attention(shape, activation(q), {&sequence, 1}, y);
    expect_near(to_host(y), expected, tolerance());
  }
}

// Queries, keys and values as E4M3 codes.
class AttentionOfCodes : public Attention {
 protected:
  AnyMatrix codes(ConstMatrixView values) const {
    AnyMatrix here(values.rows, values.cols, DType::kF8E4M3, nullptr);
    std::ranges::transform(flat(values), here.view().as<uint8_t>(),
                           formats::float_to_e4m3_saturating);
    AnyMatrix there(values.rows, values.cols, DType::kF8E4M3, device());
    copy_matrix(here, there);
    return there;
  }

  static Matrix decoded(ConstMatrixView values, float scale = 1) {
    Matrix result(values.rows, values.cols);
    std::ranges::transform(flat(values), result.values().begin(), [&](float value) {
      return formats::e4m3_to_float(formats::float_to_e4m3_saturating(value)) * scale;
    });
    return result;
  }

  // The largest sum |q| |k| / sqrt(head_dim) of a score.
  static double largest_sum(const AttentionShape& shape, ConstMatrixView q, ConstMatrixView k) {
    double largest = 0;
    for (int64_t head = 0; head < shape.n_heads; ++head) {
      const int64_t kv_head = head / (shape.n_heads / shape.n_kv_heads);
      for (int64_t t = 0; t < q.rows; ++t) {
        const float* query = q.row(t).data() + head * shape.head_dim;
        for (int64_t position = 0; position < k.rows; ++position) {
          const float* key = k.row(position).data() + kv_head * shape.head_dim;
          double sum = 0;
          for (int64_t i = 0; i < shape.head_dim; ++i) sum += std::abs(query[i] * key[i]);
          largest = std::max(largest, sum);
        }
      }
    }
    return largest / std::sqrt(static_cast<double>(shape.head_dim));
  }

  // Values there and codes of q, k, v against the reference of what they decode to.
  //
  // An FP8 product has the error of fp8_sums, so a score is off by at most e, that times its sum of
  // magnitudes. Weights change by factors between exp(-2 e) and exp(2 e), and the output by no more
  // than exp(2 e) - 1 of the weighted mean of |v|. In FP32 the codes' products are as others;
  // scores grow with k_scale to 20 at most, values with v_scale.
  void expect_attention(const AttentionShape& shape, int64_t first_position, ConstMatrixView q,
                        ConstMatrixView k, ConstMatrixView v) const {
    const AnyMatrix keys = codes(k);
    const AnyMatrix values = codes(v);
    AnyMatrix y = new_output(q.rows, q.cols);
    const AttentionSequence sequence{0, q.rows, first_position, keys, values};
    causal_attention(shape, codes(q), {&sequence, 1}, y);

    const Matrix q_values = decoded(q);
    const Matrix k_values = decoded(k, shape.k_scale);
    const Matrix v_values = decoded(v, shape.v_scale);
    Matrix expected(q.rows, q.cols);
    ref::causal_attention(shape, q_values, k_values, v_values, first_position, expected);
    Matrix means(q.rows, q.cols);
    ref::causal_attention(shape, q_values, k_values, magnitudes(v_values), first_position, means);
    const double e =
        is_bf16() ? fp8_sums(shape.head_dim) * largest_sum(shape, q_values, k_values) : 0;
    const double others = 2 * std::max(1.0f, shape.v_scale) * tolerance();
    const Matrix found = to_host(y);
    for (int64_t t = 0; t < q.rows; ++t) {
      for (int64_t col = 0; col < q.cols; ++col) {
        const double mean = means.view().row(t)[col];
        ASSERT_NEAR(found.view().row(t)[col], expected.view().row(t)[col],
                    std::expm1(2 * e) * mean + others)
            << "token " << t << ", column " << col;
      }
    }
  }
};
using AttentionOfCodesOnEveryTarget = AttentionOfCodes;
VERNIER_ON_EVERY_TARGET(AttentionOfCodesOnEveryTarget);

TEST_P(AttentionOfCodesOnEveryTarget, AgreesWithReference) {
  if (device() == nullptr) GTEST_SKIP() << "on the host all is FP32";
  const AttentionShape shapes[] = {
      {.n_heads = 8, .n_kv_heads = 2, .head_dim = 128, .k_scale = 0.3f, .v_scale = 1.7f},
      {.n_heads = 3, .n_kv_heads = 3, .head_dim = 20, .k_scale = 2.0f, .v_scale = 0.5f},
      {.n_heads = 16, .n_kv_heads = 1, .head_dim = 64},
      {.n_heads = 2, .n_kv_heads = 1, .head_dim = 256},
      {.n_heads = 6, .n_kv_heads = 2, .head_dim = 33},  // rows of codes that are not aligned
  };
  for (const AttentionShape& shape : shapes) {
    for (const int64_t first_position : {0, 30, 2000}) {
      const int64_t n_tokens = first_position == 2000 ? 2 : 90;
      const int64_t n_keys = first_position + n_tokens;
      const Matrix q = random_matrix(n_tokens, shape.n_heads * shape.head_dim, 18);
      const Matrix k = random_matrix(n_keys, shape.n_kv_heads * shape.head_dim, 19);
      const Matrix v = random_matrix(n_keys, shape.n_kv_heads * shape.head_dim, 20);
      expect_attention(shape, first_position, q, k, v);
    }
  }
}

// Rows enough for the device's tall tiles.
TEST_P(AttentionOfCodesOnEveryTarget, AgreesWithReferenceForManyTokens) {
  if (device() == nullptr) GTEST_SKIP() << "on the host all is FP32";
  for (const int64_t head_dim : {64, 128}) {
    const AttentionShape shape{.n_heads = 64, .n_kv_heads = 4, .head_dim = head_dim};
    const Matrix q = random_matrix(300, shape.n_heads * head_dim, 24);
    const Matrix k = random_matrix(300, shape.n_kv_heads * head_dim, 25);
    const Matrix v = random_matrix(300, shape.n_kv_heads * head_dim, 26);
    expect_attention(shape, 0, q, k, v);
  }
}

// Scores of codes that FP8 sums hold without loss: small integers, whose products tensor cores must
// put where they belong. What remains is the error of weights and outputs.
TEST_P(AttentionOfCodesOnEveryTarget, ScoresOfSmallIntegersAreExact) {
  if (device() == nullptr) GTEST_SKIP() << "on the host all is FP32";
  const AttentionShape shape{.n_heads = 4, .n_kv_heads = 2, .head_dim = 128, .k_scale = 0.5f};
  const auto integers = [](int64_t rows, int64_t cols, uint32_t seed) {
    Matrix matrix = random_matrix(rows, cols, seed);
    for (float& value : matrix.values()) value = std::clamp(std::round(value), -3.0f, 3.0f);
    return matrix;
  };
  const Matrix q = integers(100, 512, 27);
  const Matrix k = integers(140, 256, 28);
  const Matrix v = random_matrix(140, 256, 29);
  const AnyMatrix keys = codes(k);
  const AnyMatrix values = codes(v);
  Matrix expected(100, 512);
  ref::causal_attention(shape, q, decoded(k, shape.k_scale), decoded(v), 40, expected);
  AnyMatrix y = new_output(100, 512);
  const AttentionSequence sequence{0, 100, 40, keys, values};
  causal_attention(shape, codes(q), {&sequence, 1}, y);
  expect_near(to_host(y), expected, 2 * tolerance());
}

TEST_P(AttentionOnEveryTarget, RepeatsItselfBitForBit) {
  const AttentionShape shape{.n_heads = 16, .n_kv_heads = 1, .head_dim = 64};
  const Matrix q = random(3, 1024, 21);
  const Matrix k = random(3000, 64, 22);
  const Matrix v = random(3000, 64, 23);
  const Matrix once = attend(shape, q, k, v, 2997);
  EXPECT_EQ(flat(attend(shape, q, k, v, 2997)), flat(once));
}

TEST_P(AttentionOnEveryTarget, RefusesHeadsTooWideForADevice) {
  if (device() == nullptr) GTEST_SKIP() << "the host takes any width";
  const AttentionShape shape{.n_heads = 1, .n_kv_heads = 1, .head_dim = 257};
  const Matrix q(1, 257);
  EXPECT_THROW(attend(shape, q, q, q, 0), Error);
}

TEST(AttentionOnTheHost, DoesNotDependOnThreads) {
  const AttentionShape shape{.n_heads = 4, .n_kv_heads = 2, .head_dim = 16};
  const Matrix q = random_matrix(150, 64, 16);
  const Matrix k = random_matrix(150, 32, 17);
  const Matrix v = random_matrix(150, 32, 18);
  const AttentionSequence sequence{0, 150, 0, k, v};
  expect_thread_count_independent([&] {
    Matrix y(150, 64);
    causal_attention(shape, q, {&sequence, 1}, y);
    return flat(y);
  });
}

using AttentionDeathTest = CheckDeathTest;

TEST_F(AttentionDeathTest, ChecksShapes) {
  const AttentionShape shape{.n_heads = 2, .n_kv_heads = 1, .head_dim = 4};
  Matrix q(3, 8);
  const Matrix k(4, 4);
  const AttentionSequence too_long{0, 3, 2, k, k};
  const AttentionSequence fitting{0, 3, 0, k, k};
  const AttentionSequence outside{1, 3, 0, k, k};
  EXPECT_DEATH(causal_attention(shape, q, {&too_long, 1}, q), "n_keys");
  EXPECT_DEATH(causal_attention(shape, q, {&outside, 1}, q), "all_within");
  EXPECT_DEATH(causal_attention({3, 2, 4}, q, {&fitting, 1}, q), "n_kv_heads");
  const AnyMatrix codes(3, 8, DType::kF8E4M3, nullptr);
  EXPECT_DEATH(causal_attention(shape, codes, {&fitting, 1}, q), "q.dtype");
}

}  // namespace
}  // namespace vernier::kernels
