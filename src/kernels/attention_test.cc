#include "kernels/attention.h"

#include "kernels/linear.h"
#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

class Attention : public testing::Test {
 protected:
  static void SetUpTestSuite() { configure_host_threads(); }
};

// Outputs are weighted means of values of size 1. A score sums head_dim products of size 1 /
// sqrt(head_dim) and lies within 10, so its error is below 64 roundoffs; the weight takes it over,
// and adds few.
constexpr double kTolerance = 200 * kRoundoff;

Matrix attend(const AttentionShape& shape, ConstMatrixView q, ConstMatrixView k, ConstMatrixView v,
              int64_t first_position) {
  Matrix y(q.rows, q.cols);
  causal_attention(shape, q, k, v, first_position, y);
  return y;
}

TEST_F(Attention, WorkedByHand) {
  // Equal keys: each token gets the mean of the values so far.
  const AttentionShape shape{.n_heads = 1, .n_kv_heads = 1, .head_dim = 2};
  const Matrix q = random_matrix(3, 2, 1);
  const Matrix k(3, 2);
  const Matrix v = matrix_of(3, 2, {3, 0, 5, 2, 1, 7});
  EXPECT_THAT(attend(shape, q, k, v, 0).values(),
              testing::Pointwise(testing::FloatEq(), {3.0f, 0.0f, 4.0f, 1.0f, 3.0f, 3.0f}));
}

TEST_F(Attention, ScoresAreScaled) {
  const AttentionShape shape{.n_heads = 1, .n_kv_heads = 1, .head_dim = 4};
  const Matrix q = matrix_of(1, 4, {2, 0, 0, 0});
  const Matrix k = matrix_of(2, 4, {0, 0, 0, 0, 1, 0, 0, 0});  // scores 0 and 2 / sqrt(4)
  const Matrix v = matrix_of(2, 4, {0, 0, 0, 0, 1, 1, 1, 1});
  const float expected = std::exp(1.0f) / (1 + std::exp(1.0f));
  EXPECT_FLOAT_EQ(attend(shape, q, k, v, 1).values()[0], expected);
}

TEST_F(Attention, AgreesWithReference) {
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
        const Matrix q = random_matrix(n_tokens, shape.n_heads * shape.head_dim, 1);
        const Matrix k = random_matrix(n_keys, shape.n_kv_heads * shape.head_dim, 2);
        const Matrix v = random_matrix(n_keys, shape.n_kv_heads * shape.head_dim, 3);
        Matrix expected(n_tokens, q.cols());
        ref::causal_attention(shape, q, k, v, first_position, expected);
        expect_near(attend(shape, q, k, v, first_position), expected, kTolerance);
      }
    }
  }
}

// Scores of thousands: the running maximum keeps the exponentials in range. A score of 4000 has an
// error of a few units of 2^-12, which moves a weight by as much.
TEST_F(Attention, LargeScoresStayFinite) {
  const AttentionShape shape{.n_heads = 2, .n_kv_heads = 1, .head_dim = 16};
  const Matrix q = random_matrix(300, 32, 4, 100.0f);
  const Matrix k = random_matrix(300, 16, 5, 10.0f);
  const Matrix v = random_matrix(300, 16, 6);
  Matrix expected(300, 32);
  ref::causal_attention(shape, q, k, v, 0, expected);
  expect_near(attend(shape, q, k, v, 0), expected, 4e-3);
}

TEST_F(Attention, PiecesEqualTheWhole) {
  const AttentionShape shape{.n_heads = 4, .n_kv_heads = 2, .head_dim = 16};
  const Matrix q = random_matrix(90, 64, 7);
  const Matrix k = random_matrix(90, 32, 8);
  const Matrix v = random_matrix(90, 32, 9);
  const Matrix whole = attend(shape, q, k, v, 0);
  for (const int64_t part : {1, 7, 32, 64}) {
    for (int64_t first = 0; first < 90; first += part) {
      const int64_t n = std::min(part, 90 - first);
      const Matrix piece = attend(shape, q.view().row_range(first, n), k, v, first);
      expect_near(piece, whole.view().row_range(first, n), kTolerance);
    }
  }
}

TEST_F(Attention, FutureKeysDoNotMatter) {
  const AttentionShape shape{.n_heads = 2, .n_kv_heads = 2, .head_dim = 8};
  const Matrix q = random_matrix(40, 16, 10);
  Matrix k = random_matrix(40, 16, 11);
  Matrix v = random_matrix(40, 16, 12);
  const Matrix before = attend(shape, q, k, v, 0);
  for (float& value : k.view().row(30)) value += 5;
  for (float& value : v.view().row(30)) value += 5;
  const Matrix after = attend(shape, q, k, v, 0);
  EXPECT_EQ(flat(before.view().row_range(0, 30)), flat(after.view().row_range(0, 30)));
  EXPECT_NE(flat(before.view().row_range(30, 1)), flat(after.view().row_range(30, 1)));
}

TEST_F(Attention, MayOverwriteItsQueries) {
  const AttentionShape shape{.n_heads = 4, .n_kv_heads = 2, .head_dim = 8};
  Matrix wide = random_matrix(70, 50, 13);  // q inside a wider matrix
  const MatrixView q = wide.view().col_range(5, 32);
  const Matrix k = random_matrix(70, 16, 14);
  const Matrix v = random_matrix(70, 16, 15);
  const Matrix expected = attend(shape, q, k, v, 0);
  causal_attention(shape, q, k, v, 0, q);
  EXPECT_EQ(flat(q), flat(expected));
}

TEST_F(Attention, DoesNotDependOnThreads) {
  const AttentionShape shape{.n_heads = 4, .n_kv_heads = 2, .head_dim = 16};
  const Matrix q = random_matrix(150, 64, 16);
  const Matrix k = random_matrix(150, 32, 17);
  const Matrix v = random_matrix(150, 32, 18);
  expect_thread_count_independent([&] { return flat(attend(shape, q, k, v, 0)); });
}

using AttentionDeathTest = CheckDeathTest;

TEST_F(AttentionDeathTest, ChecksShapes) {
  const AttentionShape shape{.n_heads = 2, .n_kv_heads = 1, .head_dim = 4};
  Matrix q(3, 8);
  Matrix k(4, 4);
  EXPECT_DEATH(causal_attention(shape, q, k, k, 2, q), "first_position");
  EXPECT_DEATH(causal_attention({3, 2, 4}, q, k, k, 0, q), "n_kv_heads");
}

}  // namespace
}  // namespace vernier::kernels
