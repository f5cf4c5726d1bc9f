#include "kernels/causal_conv_backward.h"

#include <numeric>

#include "base/error.h"
#include "kernels/central_differences.h"
#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

// The forward of one sequence in double: x [tokens, channels], weight [channels, taps].
Doubles convolved(const Doubles& x, const Doubles& weight, const Doubles& bias, int64_t n_taps) {
  const auto n_channels = static_cast<int64_t>(bias.size());
  Doubles y(x.size());
  for (int64_t i = 0; i < std::ssize(x); ++i) {
    const int64_t c = i % n_channels;
    double sum = bias[c];
    for (int64_t j = 0; j < n_taps; ++j) {
      const int64_t source = i - (n_taps - 1 - j) * n_channels;
      if (source >= 0) sum += weight[c * n_taps + j] * x[source];
    }
    y[i] = sum / (1 + std::exp(-sum));
  }
  return y;
}

TEST(CausalConvBackwardReference, IsTheDerivative) {
  for (const int64_t n_taps : {1, 2, 4}) {
    for (const int64_t n_tokens : {1, 3, 9}) {
      const Matrix x = random_matrix(n_tokens, 3, 1);
      const Matrix weight = random_matrix(3, n_taps, 2);
      const auto bias = random_vector(3, 3);
      const Matrix g_y = random_matrix(n_tokens, 3, 4);
      Matrix g_x(n_tokens, 3);
      Matrix g_weight(3, n_taps);
      std::vector<float> g_bias(3);
      ref::causal_conv_silu_backward(x, weight, bias, g_y, g_x, g_weight, g_bias);
      const auto loss = [&](const Doubles& xs, const Doubles& weights, const Doubles& biases) {
        return dot_product(doubles(g_y), convolved(xs, weights, biases, n_taps));
      };
      const Doubles xs = doubles(x), weights = doubles(weight), biases = doubles(bias);
      expect_gradient(g_x.values(), xs, [&](const Doubles& v) { return loss(v, weights, biases); });
      expect_gradient(g_weight.values(), weights,
                      [&](const Doubles& v) { return loss(xs, v, biases); });
      expect_gradient(g_bias, biases, [&](const Doubles& v) { return loss(xs, weights, v); });
    }
  }
}

// Sequences that follow one another; `skew` columns before those of the matrices belong to nobody.
struct Conv {
  std::vector<SequenceSpan> sequences;
  int64_t skew = 0;
  Matrix x, weight, g_y;
  std::vector<float> bias;

  int64_t n_channels() const { return weight.rows(); }
  template <class View>
  View own(const View& matrix) const {
    return matrix.col_range(skew, n_channels());
  }
};

// All gradients; those that are added to start from random values.
struct Result {
  Matrix g_x, g_weight;
  std::vector<float> g_bias;

  explicit Result(const Conv& conv)
      : g_x(conv.x.rows(), conv.x.cols()),
        g_weight(random_matrix(conv.weight.rows(), conv.weight.cols(), 71)),
        g_bias(random_vector(conv.n_channels(), 72)) {}
};

Result reference(const Conv& conv) {
  Result result(conv);
  for (const auto& [first_row, n_rows] : conv.sequences) {
    ref::causal_conv_silu_backward(
        conv.own(conv.x.view().row_range(first_row, n_rows)), conv.weight, conv.bias,
        conv.own(conv.g_y.view().row_range(first_row, n_rows)),
        conv.own(result.g_x.view().row_range(first_row, n_rows)), result.g_weight, result.g_bias);
  }
  return result;
}

class CausalConvBackwardOnEveryTarget : public OnEveryTarget {
 protected:
  // g_p: a sum of K products of magnitudes up to 40 in all, whose rounding moves a slope (itself 10
  // roundings) by half as much; then K products with weights, in all below 16. 40 * 8 roundings
  // as in the forward, times 16.
  static constexpr double kTolerance = 16 * 40 * 8 * kRoundoff;
  double relative_tolerance() const { return is_bf16() ? roundoff() : 0; }
  // Sums over tokens of g_p x: 64 roundings deep in a run, of sums below 20 a token.
  static double weight_tolerance(int64_t n_tokens) {
    return 80 * kRoundoff * 20 * (1 + static_cast<double>(n_tokens));
  }

  Conv random_conv(const std::vector<int64_t>& lengths, int64_t n_channels, int64_t n_taps,
                   int64_t skew = 0) const {
    Conv conv;
    int64_t n_tokens = 0;
    for (const int64_t length : lengths) {
      conv.sequences.push_back({n_tokens, length});
      n_tokens += length;
    }
    conv.skew = skew;
    conv.x = rounded(random_matrix(n_tokens, skew + n_channels, 1));
    conv.weight = random_matrix(n_channels, n_taps, 2);
    conv.g_y = rounded(random_matrix(n_tokens, skew + n_channels, 4));
    conv.bias = random_vector(n_channels, 3);
    return conv;
  }

  Result run(const Conv& conv) const {
    Result result(conv);
    const AnyMatrix x = activation(conv.x);
    const AnyMatrix g_y = activation(conv.g_y);
    AnyMatrix g_x = activation(result.g_x);
    AnyMatrix g_weight = to_device(result.g_weight, device());
    Vector<float> g_bias = vector(result.g_bias);
    causal_conv_silu_backward(conv.own(x.view()), to_device(conv.weight, device()),
                              vector(conv.bias), conv.sequences, conv.own(g_y.view()),
                              conv.own(g_x.view()), g_weight, g_bias);
    result.g_x = to_host(g_x);
    result.g_weight = to_host(g_weight);
    result.g_bias = g_bias.to_host();
    return result;
  }

  void expect_agree(const Result& found, const Conv& conv) const {
    const Result expected = reference(conv);
    expect_near(found.g_x, expected.g_x, kTolerance, kTolerance + relative_tolerance());
    const double tolerance = weight_tolerance(conv.x.rows());
    expect_near(found.g_weight, expected.g_weight, tolerance);
    for (size_t c = 0; c < expected.g_bias.size(); ++c) {
      ASSERT_NEAR(found.g_bias[c], expected.g_bias[c], tolerance) << "channel " << c;
    }
  }
};
VERNIER_ON_EVERY_TARGET(CausalConvBackwardOnEveryTarget);

// At p = 0 the SiLU's slope is 1/2.
TEST_P(CausalConvBackwardOnEveryTarget, WorkedByHand) {
  AnyMatrix g_x = new_output(2, 1);
  AnyMatrix g_weight = to_device(matrix_of(1, 2, {10, 10}), device());
  Vector<float> g_bias = vector<float>({1});
  const SequenceSpan whole{0, 2};
  // p = (0 + 2 * 1 - 2, 1 * 1 + 2 * 0.5 - 2) = (0, 0).
  causal_conv_silu_backward(
      activation(matrix_of(2, 1, {1, 0.5f})), to_device(matrix_of(1, 2, {1, 2}), device()),
      vector<float>({-2}), {&whole, 1}, activation(matrix_of(2, 1, {8, 4})), g_x, g_weight, g_bias);
  EXPECT_THAT(to_host(g_x).values(), testing::ElementsAre(2 * 4 + 1 * 2, 2 * 2));
  EXPECT_THAT(to_host(g_weight).values(), testing::ElementsAre(10 + 2 * 1, 10 + 4 * 1 + 2 * 0.5f));
  EXPECT_EQ(g_bias.to_host()[0], 1 + 4 + 2);
}

// Many lengths in one call; channels of every alignment.
TEST_P(CausalConvBackwardOnEveryTarget, AgreesWithReference) {
  for (const int64_t n_taps : {1, 2, 3, 4, 5, 8}) {
    for (const int64_t n_channels : {1, 259, 520}) {
      for (const int64_t skew : {0, 3, 8}) {
        SCOPED_TRACE(testing::Message() << n_taps << " taps, " << n_channels << " channels");
        const Conv conv =
            random_conv({0, 70, 1, 2, 3, 63, 64, 65, 0, 130}, n_channels, n_taps, skew);
        expect_agree(run(conv), conv);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// More than a launch on a device takes.
TEST_P(CausalConvBackwardOnEveryTarget, ManySequencesInOneCall) {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < 150; ++i) lengths.push_back(i % 80);
  const Conv conv = random_conv(lengths, 24, 4);
  expect_agree(run(conv), conv);
}

TEST_P(CausalConvBackwardOnEveryTarget, WithoutBiasAndWithoutSums) {
  for (const int64_t n_channels : {16, 5}) {
    Conv conv = random_conv({100, 3}, n_channels, 4);
    conv.bias.assign(static_cast<size_t>(n_channels), 0.0f);
    const Result all = run(conv);
    AnyMatrix g_x = new_output(103, n_channels);
    causal_conv_silu_backward(activation(conv.x), to_device(conv.weight, device()), {},
                              conv.sequences, activation(conv.g_y), g_x, {}, {});
    EXPECT_EQ(flat(to_host(g_x)), flat(all.g_x));
    Vector<float> g_bias = vector(Result(conv).g_bias);
    causal_conv_silu_backward(activation(conv.x), to_device(conv.weight, device()), {},
                              conv.sequences, activation(conv.g_y), g_x, {}, g_bias);
    EXPECT_EQ(g_bias.to_host(), all.g_bias);
  }
}

TEST_P(CausalConvBackwardOnEveryTarget, RowsOfNoSequenceStay) {
  for (const int64_t n_channels : {16, 5}) {
    Conv conv = random_conv({20, 30, 40}, n_channels, 4);
    conv.sequences.erase(conv.sequences.begin() + 1);
    const Matrix start = rounded(random_matrix(90, n_channels, 5));
    AnyMatrix g_x = activation(start);
    causal_conv_silu_backward(activation(conv.x), to_device(conv.weight, device()),
                              vector(conv.bias), conv.sequences, activation(conv.g_y), g_x, {}, {});
    const Matrix found = to_host(g_x);
    EXPECT_EQ(flat(found.view().row_range(20, 30)), flat(start.view().row_range(20, 30)));
    const Result expected = reference(conv);
    expect_near(found.view().row_range(50, 40), expected.g_x.view().row_range(50, 40), kTolerance,
                kTolerance + relative_tolerance());
  }
}

TEST_P(CausalConvBackwardOnEveryTarget, DoesNotDependOnThreads) {
  const Conv conv = random_conv({200}, 130, 4);
  expect_thread_count_independent([&] {
    const Result result = run(conv);
    std::vector<float> all = flat(result.g_x);
    const auto weights = flat(result.g_weight);
    all.insert(all.end(), weights.begin(), weights.end());
    all.insert(all.end(), result.g_bias.begin(), result.g_bias.end());
    return all;
  });
}

TEST_P(CausalConvBackwardOnEveryTarget, DeviceRefusesManyTaps) {
  if (device() == nullptr) return;  // the host takes any
  try {
    run(random_conv({3}, 2, 9));
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_THAT(error.message(), testing::HasSubstr("9 taps"));
  }
}

using CausalConvBackwardDeathTest = CheckDeathTest;

TEST_F(CausalConvBackwardDeathTest, ChecksShapes) {
  Matrix x(2, 3);
  Matrix g_x(2, 3);
  Matrix weight(3, 4);
  Matrix narrow(3, 3);
  const SequenceSpan whole{0, 2};
  const SequenceSpan beyond{1, 2};
  EXPECT_DEATH(causal_conv_silu_backward(x, weight, {}, {&whole, 1}, x, x, {}, {}), "g_x.data");
  EXPECT_DEATH(causal_conv_silu_backward(x, weight, {}, {&whole, 1}, x, g_x, narrow, {}),
               "g_weight");
  EXPECT_DEATH(causal_conv_silu_backward(x, weight, {}, {&beyond, 1}, x, g_x, {}, {}),
               "all_within");
}

}  // namespace
}  // namespace vernier::kernels
