#include "kernels/attention_backward.h"

#include "base/error.h"
#include "kernels/linear.h"
#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

using Doubles = std::vector<double>;

// Attention in double, written out for what the tests need of it: one head of one sequence, rows
// and elements of a row by functions.
template <class Query, class Key>
std::vector<Doubles> weights_of(int64_t n_tokens, int64_t dim, Query q, Key k) {
  std::vector<Doubles> weights(n_tokens);
  for (int64_t t = 0; t < n_tokens; ++t) {
    double largest = -INFINITY;
    for (int64_t p = 0; p <= t; ++p) {
      double score = 0;
      for (int64_t i = 0; i < dim; ++i) score += q(t, i) * k(p, i);
      weights[t].push_back(score / std::sqrt(static_cast<double>(dim)));
      largest = std::max(largest, weights[t].back());
    }
    double total = 0;
    for (double& weight : weights[t]) total += weight = std::exp(weight - largest);
    for (double& weight : weights[t]) weight /= total;
  }
  return weights;
}

struct Inputs {
  Matrix q, k, v, y, g_y;
};
struct Gradients {
  Matrix g_q, g_k, g_v;
};

Gradients zeros_like(const Inputs& in) {
  return {Matrix(in.q.rows(), in.q.cols()), Matrix(in.k.rows(), in.k.cols()),
          Matrix(in.v.rows(), in.v.cols())};
}

Gradients reference(const AttentionShape& shape, std::span<const SequenceSpan> sequences,
                    const Inputs& in) {
  Gradients out = zeros_like(in);
  ref::causal_attention_backward({shape, in.q, in.k, in.v, in.y, in.g_y, out.g_q, out.g_k, out.g_v},
                                 sequences);
  return out;
}

// What the terms of every gradient add up to by magnitude: errors are proportional to it.
Gradients sizes(const AttentionShape& shape, std::span<const SequenceSpan> sequences,
                const Inputs& in) {
  Gradients out = zeros_like(in);
  const int64_t dim = shape.head_dim;
  const double scale = 1 / std::sqrt(static_cast<double>(dim));
  const auto size_of_dot = [&](const float* a, const float* b) {
    double sum = 0;
    for (int64_t i = 0; i < dim; ++i) sum += std::abs(double{a[i]} * b[i]);
    return sum;
  };
  for (const auto& [first, n_tokens] : sequences) {
    for (int64_t head = 0; head < shape.n_heads; ++head) {
      const int64_t kv_head = head / (shape.n_heads / shape.n_kv_heads);
      const auto row = [&, first = first](auto& matrix, int64_t t, int64_t which) {
        return matrix.view().row(first + t).data() + which * dim;
      };
      const auto weights = weights_of(
          n_tokens, dim, [&](int64_t t, int64_t i) { return double{row(in.q, t, head)[i]}; },
          [&](int64_t p, int64_t i) { return double{row(in.k, p, kv_head)[i]}; });
      for (int64_t t = 0; t < n_tokens; ++t) {
        const double mean = size_of_dot(row(in.g_y, t, head), row(in.y, t, head));
        for (int64_t p = 0; p <= t; ++p) {
          const double weight = weights[t][p];
          const double g_score =
              weight * scale * (size_of_dot(row(in.g_y, t, head), row(in.v, p, kv_head)) + mean);
          for (int64_t i = 0; i < dim; ++i) {
            row(out.g_q, t, head)[i] += g_score * std::abs(row(in.k, p, kv_head)[i]);
            row(out.g_k, p, kv_head)[i] += g_score * std::abs(row(in.q, t, head)[i]);
            row(out.g_v, p, kv_head)[i] += weight * std::abs(row(in.g_y, t, head)[i]);
          }
        }
      }
    }
  }
  return out;
}

class AttentionBackwardTest : public OnEveryTarget {
 protected:
  static void SetUpTestSuite() { configure_host_threads(); }

  // A score lies within 10, so its error is below 64 roundoffs, which the weight takes over; a
  // product with g_y sums up to 256 terms, a gradient a few tiles of 64 to 256: less than 500
  // roundoffs of the terms' magnitudes in all. With BF16 P and S' round once each.
  double of_magnitudes() const { return 500 * kRoundoff + (is_bf16() ? 2 * roundoff() : 0); }

  // Of a weight where scores lie within 40: P is a power of a difference that has their roundoff.
  double weight_error() const { return 64 * kRoundoff + (is_bf16() ? 2 * roundoff() : 0); }

  Matrix random(int64_t rows, int64_t cols, uint32_t seed, float deviation = 1.0f) const {
    return rounded(random_matrix(rows, cols, seed, deviation));
  }

  Inputs random_inputs(const AttentionShape& shape, std::span<const SequenceSpan> sequences,
                       int64_t n_rows, float deviation = 1.0f) const {
    const int64_t q_width = shape.n_heads * shape.head_dim;
    const int64_t kv_width = shape.n_kv_heads * shape.head_dim;
    Inputs in{random(n_rows, q_width, 1, deviation), random(n_rows, kv_width, 2),
              random(n_rows, kv_width, 3), Matrix(n_rows, q_width), random(n_rows, q_width, 4)};
    for (const auto& [first, n] : sequences) {
      ref::causal_attention(shape, in.q.view().row_range(first, n), in.k.view().row_range(first, n),
                            in.v.view().row_range(first, n), 0, in.y.view().row_range(first, n));
    }
    in.y = rounded(in.y);
    return in;
  }

  // The op's, in outputs that hold `before`.
  Gradients differentiate(const AttentionShape& shape, std::span<const SequenceSpan> sequences,
                          const Inputs& in, float before = NAN) const {
    Gradients start = zeros_like(in);
    for (Matrix* each : {&start.g_q, &start.g_k, &start.g_v}) {
      std::fill(each->values().begin(), each->values().end(), before);
    }
    AnyMatrix g_q = activation(start.g_q);
    AnyMatrix g_k = activation(start.g_k);
    AnyMatrix g_v = activation(start.g_v);
    causal_attention_backward(shape, activation(in.q), activation(in.k), activation(in.v),
                              activation(in.y), sequences, activation(in.g_y), g_q, g_k, g_v);
    return {to_host(g_q), to_host(g_k), to_host(g_v)};
  }

  void expect_within(const Matrix& found, const Matrix& expected, const Matrix& size) const {
    for (int64_t row = 0; row < found.rows(); ++row) {
      for (int64_t col = 0; col < found.cols(); ++col) {
        const double want = expected.view().row(row)[col];
        const double error = of_magnitudes() * size.view().row(row)[col];
        ASSERT_NEAR(found.view().row(row)[col], want, error + roundoff() * (std::abs(want) + error))
            << "row " << row << ", column " << col;
      }
    }
  }

  void expect_gradients(const AttentionShape& shape, std::span<const SequenceSpan> sequences,
                        const Inputs& in, const Gradients& found) const {
    const Gradients expected = reference(shape, sequences, in);
    const Gradients size = sizes(shape, sequences, in);
    for (const auto& [name, member] :
         {std::pair{"g_q", &Gradients::g_q}, {"g_k", &Gradients::g_k}, {"g_v", &Gradients::g_v}}) {
      SCOPED_TRACE(name);
      expect_within(found.*member, expected.*member, size.*member);
    }
  }
};
using AttentionBackwardOnEveryTarget = AttentionBackwardTest;
VERNIER_ON_EVERY_TARGET(AttentionBackwardOnEveryTarget);

TEST(AttentionBackwardReference, AgreesWithCentralDifferences) {
  const AttentionShape shape{.n_heads = 4, .n_kv_heads = 2, .head_dim = 3};
  const SequenceSpan sequence{0, 6};
  const std::vector<Matrix> inputs = {random_matrix(6, 12, 1), random_matrix(6, 6, 2),
                                      random_matrix(6, 6, 3)};
  const Matrix g_y = random_matrix(6, 12, 4);
  std::vector<Doubles> x;  // q, k, v
  for (const Matrix& each : inputs) x.emplace_back(each.values().begin(), each.values().end());
  Doubles y(6 * 12);
  const auto loss = [&] {
    double sum = 0;
    for (int64_t head = 0; head < 4; ++head) {
      const auto weights = weights_of(
          6, 3, [&](int64_t t, int64_t i) { return x[0][t * 12 + head * 3 + i]; },
          [&](int64_t p, int64_t i) { return x[1][p * 6 + head / 2 * 3 + i]; });
      for (int64_t t = 0; t < 6; ++t) {
        for (int64_t i = 0; i < 3; ++i) {
          double value = 0;
          for (int64_t p = 0; p <= t; ++p) value += weights[t][p] * x[2][p * 6 + head / 2 * 3 + i];
          y[t * 12 + head * 3 + i] = value;
          sum += value * g_y.view().row(t)[head * 3 + i];
        }
      }
    }
    return sum;
  };
  loss();
  Inputs in{Matrix(6, 12), Matrix(6, 6), Matrix(6, 6), Matrix(6, 12), Matrix(6, 12)};
  copy_matrix(inputs[0], in.q);
  copy_matrix(inputs[1], in.k);
  copy_matrix(inputs[2], in.v);
  copy_matrix(g_y, in.g_y);
  std::copy(y.begin(), y.end(), in.y.values().begin());
  const Gradients found = reference(shape, {&sequence, 1}, in);
  const Matrix* gradients[] = {&found.g_q, &found.g_k, &found.g_v};
  constexpr double kStep = 1e-4;  // the difference's own error is its square
  for (size_t which = 0; which < 3; ++which) {
    for (size_t i = 0; i < x[which].size(); ++i) {
      const double before = x[which][i];
      x[which][i] = before + kStep;
      const double above = loss();
      x[which][i] = before - kStep;
      const double below = loss();
      x[which][i] = before;
      // y is rounded to FP32, and so is the result.
      EXPECT_NEAR(gradients[which]->values()[i], (above - below) / (2 * kStep), 1e-6)
          << "input " << which << ", element " << i;
    }
  }
}

TEST_P(AttentionBackwardOnEveryTarget, OneTokenPassesItsGradientToItsValue) {
  const AttentionShape shape{.n_heads = 2, .n_kv_heads = 1, .head_dim = 2};
  const SequenceSpan sequence{0, 1};
  const Inputs in{matrix_of(1, 4, {1, 2, 3, 4}), matrix_of(1, 2, {5, 6}), matrix_of(1, 2, {3, -2}),
                  matrix_of(1, 4, {3, -2, 3, -2}), matrix_of(1, 4, {1, 4, 2, 7})};
  const Gradients found = differentiate(shape, {&sequence, 1}, in);
  EXPECT_THAT(flat(found.g_q), testing::Each(0.0f));
  EXPECT_THAT(flat(found.g_k), testing::Each(0.0f));
  expect_near(found.g_v, matrix_of(1, 2, {3, 11}), 0, weight_error());
}

// Two equal keys: P = 1/2, D = g_y (v0 + v1) / 2, S' = +-g_y (v0 - v1) / 4.
TEST_P(AttentionBackwardOnEveryTarget, TwoTokensWorkedByHand) {
  const AttentionShape shape{.n_heads = 1, .n_kv_heads = 1, .head_dim = 1};
  const SequenceSpan sequence{0, 2};
  const Inputs in{matrix_of(2, 1, {1, 2}), matrix_of(2, 1, {3, 3}), matrix_of(2, 1, {8, 4}),
                  matrix_of(2, 1, {8, 6}), matrix_of(2, 1, {0, 1})};
  const Gradients found = differentiate(shape, {&sequence, 1}, in);
  const double bound = 4 * weight_error();
  expect_near(found.g_v, matrix_of(2, 1, {0.5f, 0.5f}), bound);
  expect_near(found.g_k, matrix_of(2, 1, {2, -2}), bound);  // S' q = +-1 * 2
  expect_near(found.g_q, matrix_of(2, 1, {0, 0}), bound);
}

TEST_P(AttentionBackwardOnEveryTarget, AgreesWithReference) {
  const AttentionShape shapes[] = {
      {.n_heads = 2, .n_kv_heads = 2, .head_dim = 64},
      {.n_heads = 4, .n_kv_heads = 1, .head_dim = 128},
      {.n_heads = 16, .n_kv_heads = 1, .head_dim = 64},
      {.n_heads = 6, .n_kv_heads = 2, .head_dim = 33},
      {.n_heads = 1, .n_kv_heads = 1, .head_dim = 3},
  };
  for (const AttentionShape& shape : shapes) {
    for (const int64_t n_tokens : {1, 63, 64, 65, 200}) {
      SCOPED_TRACE(testing::Message() << shape.n_heads << " heads of " << shape.head_dim << ", "
                                      << n_tokens << " tokens");
      const SequenceSpan sequence{0, n_tokens};
      const Inputs in = random_inputs(shape, {&sequence, 1}, n_tokens);
      expect_gradients(shape, {&sequence, 1}, in, differentiate(shape, {&sequence, 1}, in));
    }
  }
}

// More heads than a tile has rows, and the widest heads of a device, whole and padded.
TEST_P(AttentionBackwardOnEveryTarget, AgreesWithReferenceForUnusualShapes) {
  const AttentionShape shapes[] = {
      {.n_heads = 70, .n_kv_heads = 1, .head_dim = 8},
      {.n_heads = 32, .n_kv_heads = 2, .head_dim = 128},
      {.n_heads = 2, .n_kv_heads = 1, .head_dim = 256},
      {.n_heads = 2, .n_kv_heads = 2, .head_dim = 131},
      {.n_heads = 5, .n_kv_heads = 1, .head_dim = 80},
  };
  const SequenceSpan sequence{0, 100};
  for (const AttentionShape& shape : shapes) {
    SCOPED_TRACE(testing::Message() << shape.n_heads << " heads of " << shape.head_dim);
    const Inputs in = random_inputs(shape, {&sequence, 1}, 100);
    expect_gradients(shape, {&sequence, 1}, in, differentiate(shape, {&sequence, 1}, in));
  }
}

// In any order of rows, some of them empty, with rows between them that are nobody's and stay as
// they are.
TEST_P(AttentionBackwardOnEveryTarget, ManySequencesInOneCall) {
  const AttentionShape shape{.n_heads = 6, .n_kv_heads = 2, .head_dim = 24};
  std::vector<SequenceSpan> sequences = {{40, 30}, {0, 1}, {2, 37}, {71, 0}, {72, 70}, {39, 1}};
  for (int64_t i = 0; i < 70; ++i) sequences.push_back({142 + 2 * i, 2});  // more than a launch
  const Inputs in = random_inputs(shape, sequences, 283);
  constexpr float kBefore = 7;
  const Gradients found = differentiate(shape, sequences, in, kBefore);
  Gradients taken = zeros_like(in);
  for (const auto& [first, n] : sequences) {
    copy_matrix(found.g_q.view().row_range(first, n), taken.g_q.view().row_range(first, n));
    copy_matrix(found.g_k.view().row_range(first, n), taken.g_k.view().row_range(first, n));
    copy_matrix(found.g_v.view().row_range(first, n), taken.g_v.view().row_range(first, n));
  }
  expect_gradients(shape, sequences, in, taken);
  for (const int64_t row : {1, 70, 71, 282}) {
    EXPECT_THAT(flat(found.g_q.view().row_range(row, 1)), testing::Each(kBefore));
    EXPECT_THAT(flat(found.g_k.view().row_range(row, 1)), testing::Each(kBefore));
    EXPECT_THAT(flat(found.g_v.view().row_range(row, 1)), testing::Each(kBefore));
  }
  EXPECT_THAT(flat(differentiate(shape, {}, in, kBefore).g_q), testing::Each(kBefore));
}

// All three of a kind side by side in one wider matrix, at even and odd places.
TEST_P(AttentionBackwardOnEveryTarget, ViewsMayBeStrided) {
  const AttentionShape shape{.n_heads = 4, .n_kv_heads = 2, .head_dim = 16};
  const SequenceSpan sequence{0, 75};
  const Inputs in = random_inputs(shape, {&sequence, 1}, 75);
  for (const int64_t first_col : {0, 3, 8}) {
    const auto side_by_side = [&](ConstMatrixView q, ConstMatrixView k, ConstMatrixView v) {
      Matrix wide(75, 144);
      copy_matrix(q, wide.view().col_range(first_col, 64));
      copy_matrix(k, wide.view().col_range(first_col + 64, 32));
      copy_matrix(v, wide.view().col_range(first_col + 96, 32));
      return activation(wide);
    };
    const AnyMatrix x = side_by_side(in.q, in.k, in.v);
    const AnyMatrix outer = side_by_side(in.y, in.k, in.v);
    const AnyMatrix g_outer = side_by_side(in.g_y, in.k, in.v);
    AnyMatrix g = activation(Matrix(75, 144));
    causal_attention_backward(
        shape, x.view().col_range(first_col, 64), x.view().col_range(first_col + 64, 32),
        x.view().col_range(first_col + 96, 32), outer.view().col_range(first_col, 64),
        {&sequence, 1}, g_outer.view().col_range(first_col, 64), g.view().col_range(first_col, 64),
        g.view().col_range(first_col + 64, 32), g.view().col_range(first_col + 96, 32));
    const Matrix found = to_host(g);
    Gradients parts = zeros_like(in);
    copy_matrix(found.view().col_range(first_col, 64), parts.g_q);
    copy_matrix(found.view().col_range(first_col + 64, 32), parts.g_k);
    copy_matrix(found.view().col_range(first_col + 96, 32), parts.g_v);
    expect_gradients(shape, {&sequence, 1}, in, parts);
    EXPECT_THAT(flat(found.view().col_range(0, first_col)), testing::Each(0.0f));
    EXPECT_THAT(flat(found.view().col_range(first_col + 128, 16 - first_col)), testing::Each(0.0f));
  }
}

// Scores of hundreds: exponentials stay in range, and of a row one weight is 1.
TEST_P(AttentionBackwardOnEveryTarget, LargeScoresStayFinite) {
  const AttentionShape shape{.n_heads = 2, .n_kv_heads = 1, .head_dim = 16};
  const SequenceSpan sequence{0, 130};
  const Inputs in = random_inputs(shape, {&sequence, 1}, 130, 100.0f);
  const Gradients found = differentiate(shape, {&sequence, 1}, in);
  for (const Matrix* each : {&found.g_q, &found.g_k, &found.g_v}) {
    for (const float value : each->values()) ASSERT_TRUE(std::isfinite(value));
  }
}

TEST_P(AttentionBackwardOnEveryTarget, RepeatsItselfBitForBit) {
  const AttentionShape shape{.n_heads = 8, .n_kv_heads = 2, .head_dim = 64};
  const SequenceSpan sequence{0, 150};
  const Inputs in = random_inputs(shape, {&sequence, 1}, 150);
  const Gradients once = differentiate(shape, {&sequence, 1}, in);
  const Gradients again = differentiate(shape, {&sequence, 1}, in);
  EXPECT_TRUE(same_bits(once.g_q.values(), again.g_q.values()));
  EXPECT_TRUE(same_bits(once.g_k.values(), again.g_k.values()));
  EXPECT_TRUE(same_bits(once.g_v.values(), again.g_v.values()));
}

TEST_P(AttentionBackwardOnEveryTarget, RefusesHeadsTooWideForADevice) {
  if (device() == nullptr) GTEST_SKIP() << "the host takes any width";
  const AttentionShape shape{.n_heads = 1, .n_kv_heads = 1, .head_dim = 257};
  const SequenceSpan sequence{0, 1};
  EXPECT_THROW(differentiate(shape, {&sequence, 1}, random_inputs(shape, {&sequence, 1}, 1)),
               Error);
}

TEST(AttentionBackwardOnTheHost, DoesNotDependOnThreads) {
  configure_host_threads();
  const AttentionShape shape{.n_heads = 4, .n_kv_heads = 2, .head_dim = 16};
  const std::vector<SequenceSpan> sequences = {{0, 100}, {100, 50}};
  const Matrix q = random_matrix(150, 64, 1);
  const Matrix k = random_matrix(150, 32, 2);
  const Matrix v = random_matrix(150, 32, 3);
  const Matrix y = random_matrix(150, 64, 4);
  const Matrix g_y = random_matrix(150, 64, 5);
  expect_thread_count_independent([&] {
    Matrix g(150, 128);
    causal_attention_backward(shape, q, k, v, y, sequences, g_y, g.view().col_range(0, 64),
                              g.view().col_range(64, 32), g.view().col_range(96, 32));
    return flat(g);
  });
}

using AttentionBackwardDeathTest = CheckDeathTest;

TEST_F(AttentionBackwardDeathTest, ChecksShapes) {
  const AttentionShape shape{.n_heads = 2, .n_kv_heads = 1, .head_dim = 4};
  const SequenceSpan outside{1, 3};
  const Matrix q(3, 8), k(3, 4), short_k(2, 4);
  Matrix g_q(3, 8), g_k(3, 4), g_v(3, 4);
  EXPECT_DEATH(causal_attention_backward(shape, q, k, k, q, {&outside, 1}, q, g_q, g_k, g_v),
               "all_within");
  EXPECT_DEATH(causal_attention_backward(shape, q, short_k, k, q, {}, q, g_q, g_k, g_v),
               "has_shape");
  EXPECT_DEATH(causal_attention_backward(shape, q, k, short_k, q, {}, q, g_q, g_k, g_v),
               "same_shape");
  EXPECT_DEATH(causal_attention_backward({2, 1, 4, 0.5f}, q, k, k, q, {}, q, g_q, g_k, g_v),
               "k_scale");
}

}  // namespace
}  // namespace vernier::kernels
