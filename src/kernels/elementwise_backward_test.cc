#include "kernels/elementwise_backward.h"

#include <limits>

#include "kernels/central_differences.h"
#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(ElementwiseBackwardReference, SquaredReluIsTheDerivative) {
  const Matrix x = random_matrix(3, 7, 1);
  const Matrix g_y = random_matrix(3, 7, 2);
  Matrix g = g_y;
  ref::squared_relu_backward(x, g);
  expect_gradient(g.values(), doubles(x), [&](const Doubles& values) {
    Doubles y = values;
    for (double& value : y) value = value < 0 ? 0 : value * value;
    return dot_product(doubles(g_y), y);
  });
}

// Steps of time that the clamp holds have no gradient; both bounds are met here.
TEST(ElementwiseBackwardReference, SoftplusIsTheDerivative) {
  for (const auto& [low, high] : {std::pair(0.0f, kInf), {0.5f, 2.0f}}) {
    const Matrix raw = random_matrix(5, 6, 1, 8.0f);
    const auto bias = random_vector(6, 2);
    const Matrix g_dt = random_matrix(5, 6, 3);
    Matrix g_raw(5, 6);
    std::vector<float> g_bias(6);
    ref::softplus_dt_backward(raw, bias, low, high, g_dt, g_raw, g_bias);
    const auto loss = [&, low = low, high = high](const Doubles& raws, const Doubles& biases) {
      Doubles dt;
      for (size_t i = 0; i < raws.size(); ++i) {
        const double s = raws[i] + biases[i % biases.size()];
        dt.push_back(std::clamp<double>(s > 20 ? s : std::log1p(std::exp(s)), low, high));
      }
      return dot_product(doubles(g_dt), dt);
    };
    expect_gradient(g_raw.values(), doubles(raw),
                    [&](const Doubles& values) { return loss(values, doubles(bias)); });
    expect_gradient(g_bias, doubles(bias),
                    [&](const Doubles& values) { return loss(doubles(raw), values); });
  }
}

class ElementwiseBackward : public OnEveryTarget {
 protected:
  struct Gradients {
    Matrix raw;
    std::vector<float> bias;
  };
  Gradients softplus(ConstMatrixView raw, const std::vector<float>& bias, float low, float high,
                     ConstMatrixView g_dt) const {
    AnyMatrix g_raw = new_output(raw.rows, raw.cols);
    Vector<float> g_bias = vector(random_vector(raw.cols, 77));
    softplus_dt_backward(activation(raw), vector(bias), low, high, to_device(g_dt, device()), g_raw,
                         g_bias);
    return {to_host(g_raw), g_bias.to_host()};
  }
  static Gradients expected(ConstMatrixView raw, const std::vector<float>& bias, float low,
                            float high, ConstMatrixView g_dt) {
    Gradients gradients{Matrix(raw.rows, raw.cols), random_vector(raw.cols, 77)};
    ref::softplus_dt_backward(raw, bias, low, high, g_dt, gradients.raw, gradients.bias);
    return gradients;
  }
};
using ElementwiseBackwardOnEveryTarget = ElementwiseBackward;
VERNIER_ON_EVERY_TARGET(ElementwiseBackwardOnEveryTarget);

TEST_P(ElementwiseBackwardOnEveryTarget, SquaredReluWorkedByHand) {
  AnyMatrix g = activation(matrix_of(1, 5, {1, 2, 3, 4, kInf}));
  squared_relu_backward(activation(matrix_of(1, 5, {-2, 0, 1.5f, kInf, 1})), g);
  EXPECT_THAT(to_host(g).values(), testing::ElementsAre(0, 0, 9, kInf, kInf));
}

// Twice a value is exact, and the product is rounded once, in all.
TEST_P(ElementwiseBackwardOnEveryTarget, SquaredReluEqualsReference) {
  for (const auto& [rows, cols] : {std::pair(0, 8), {1, 1}, {130, 131}, {3, 2048}, {700, 16}}) {
    const Matrix x = rounded(random_matrix(rows, cols, 1));
    const Matrix g_y = rounded(random_matrix(rows, cols, 2));
    AnyMatrix g = activation(g_y);
    squared_relu_backward(activation(x), g);
    Matrix expected = g_y;
    ref::squared_relu_backward(x, expected);
    EXPECT_EQ(flat(to_host(g)), flat(rounded(expected)));
  }
}

TEST_P(ElementwiseBackwardOnEveryTarget, SquaredReluOfStridedRows) {
  const Matrix x = rounded(random_matrix(9, 40, 1));
  const Matrix g_y = rounded(random_matrix(9, 48, 2));
  for (const int64_t first : {3, 8}) {
    const AnyMatrix there = activation(x);
    AnyMatrix g = activation(g_y);
    squared_relu_backward(there.view().col_range(first, 24), g.view().col_range(first, 24));
    Matrix expected = g_y;
    ref::squared_relu_backward(x.view().col_range(first, 24), expected.view().col_range(first, 24));
    EXPECT_EQ(flat(to_host(g)), flat(rounded(expected)));
  }
}

TEST_P(ElementwiseBackwardOnEveryTarget, SoftplusWorkedByHand) {
  // s: 0 in all but the third, which is past the threshold; the fourth's dt = ln 2 is clamped.
  const auto [g_raw, g_bias] =
      softplus(matrix_of(1, 3, {1, -2, 21}), {-1, 2, 4}, 0, kInf, matrix_of(1, 3, {8, -4, 3}));
  EXPECT_THAT(g_raw.values(), testing::ElementsAre(4, -2, 3));
  const auto clamped = softplus(Matrix(2, 1), {0}, 0.75f, 1, matrix_of(2, 1, {8, 8}));
  EXPECT_THAT(clamped.raw.values(), testing::ElementsAre(0, 0));
  EXPECT_EQ(clamped.bias, random_vector(1, 77));
}

// A sigmoid of 6 roundings of a rounded s moves by at most |s| <= 60 roundings of itself. A sum
// over tokens rounds as often as it has partial sums, tokens / 8 at worst, of values below 6 each.
TEST_P(ElementwiseBackwardOnEveryTarget, SoftplusAgreesWithReference) {
  for (const int64_t n_tokens : {0, 1, 64, 65, 300, 3000}) {
    for (const int64_t n_heads : {1, 32, 65}) {
      for (const auto& [low, high] : {std::pair(0.0f, kInf), {0.01f, 3.0f}}) {
        SCOPED_TRACE(testing::Message() << n_tokens << " x " << n_heads);
        const Matrix raw = rounded(random_matrix(n_tokens, n_heads, 2, 10.0f));
        const auto bias = random_vector(n_heads, 3);
        const Matrix g_dt = random_matrix(n_tokens, n_heads, 4);
        const Gradients found = softplus(raw, bias, low, high, g_dt);
        const Gradients want = expected(raw, bias, low, high, g_dt);
        expect_near(found.raw, want.raw, 1e-30, 70 * kRoundoff + (is_bf16() ? roundoff() : 0));
        const auto n = static_cast<double>(n_tokens);
        for (size_t h = 0; h < want.bias.size(); ++h) {
          ASSERT_NEAR(found.bias[h], want.bias[h], (8 + n / 8) * kRoundoff * (6 + n));
        }
        if (HasFatalFailure()) return;
      }
    }
  }
}

// dt's columns lie among others in a projection's output, and so do their gradients.
TEST_P(ElementwiseBackwardOnEveryTarget, SoftplusOfStridedRows) {
  const Matrix wide = rounded(random_matrix(20, 90, 4));
  const auto bias = random_vector(30, 5);
  const Matrix g_dt = random_matrix(20, 33, 6);
  const AnyMatrix g_there = to_device(g_dt, device());
  AnyMatrix in_place = activation(wide);
  softplus_dt_backward(in_place.view().col_range(57, 30), vector(bias), 0, kInf,
                       g_there.view().col_range(2, 30), in_place.view().col_range(57, 30), {});
  const auto found = to_host(in_place);
  EXPECT_EQ(
      flat(found.view().col_range(57, 30)),
      flat(softplus(wide.view().col_range(57, 30), bias, 0, kInf, g_dt.view().col_range(2, 30))
               .raw));
  EXPECT_EQ(flat(found.view().col_range(0, 57)), flat(wide.view().col_range(0, 57)));
  EXPECT_EQ(flat(found.view().col_range(87, 3)), flat(wide.view().col_range(87, 3)));
}

TEST(ElementwiseBackwardOnTheHost, DoesNotDependOnThreads) {
  const Matrix x = random_matrix(300, 100, 7);
  const auto bias = random_vector(100, 8);
  expect_thread_count_independent([&] {
    Matrix g = x;
    std::vector<float> g_bias(100);
    squared_relu_backward(x, g);
    softplus_dt_backward(x, bias, 0, kInf, g, g, std::span<float>(g_bias));
    std::vector<float> all = flat(g);
    all.insert(all.end(), g_bias.begin(), g_bias.end());
    return all;
  });
}

using ElementwiseBackwardDeathTest = CheckDeathTest;

TEST_F(ElementwiseBackwardDeathTest, ChecksShapes) {
  Matrix x(2, 3);
  Matrix y(2, 4);
  std::vector<float> sums(2);
  const std::vector<float> bias(3);
  EXPECT_DEATH(squared_relu_backward(x, y), "same_shape");
  EXPECT_DEATH(softplus_dt_backward(x, sums, 0, 1, x, x, {}), "bias");
  EXPECT_DEATH(softplus_dt_backward(x, bias, 0, 1, x, x, std::span<float>(sums)), "g_bias");
}

}  // namespace
}  // namespace vernier::kernels
