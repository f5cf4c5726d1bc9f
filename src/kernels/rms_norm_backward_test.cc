#include "kernels/rms_norm_backward.h"

#include "kernels/central_differences.h"
#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

constexpr float kEps = 1e-5f;

// The forward in double, x [tokens, n_groups * width], `gates` empty: no gate.
Doubles normed(const Doubles& x, const Doubles& gates, const Doubles& weight, size_t width) {
  Doubles y = x;
  for (size_t i = 0; i < gates.size(); ++i) y[i] *= gates[i] / (1 + std::exp(-gates[i]));
  for (size_t first = 0; first < y.size(); first += width) {
    double sum = 0;
    for (size_t i = first; i < first + width; ++i) sum += y[i] * y[i];
    const double factor = 1 / std::sqrt(sum / static_cast<double>(width) + double{kEps});
    for (size_t i = first; i < first + width; ++i) y[i] *= factor * weight[i % weight.size()];
  }
  return y;
}

TEST(RmsNormBackwardReference, IsTheDerivative) {
  for (const int64_t n_channels : {1, 7, 16}) {
    const Matrix x = random_matrix(3, n_channels, 1, 2.0f);
    const auto weight = random_vector(n_channels, 2);
    const Matrix g_y = random_matrix(3, n_channels, 3);
    Matrix g_x(3, n_channels);
    std::vector<float> g_weight(static_cast<size_t>(n_channels));
    ref::rms_norm_backward(x, weight, kEps, g_y, g_x, g_weight);
    const auto loss = [&](const Doubles& x_values, const Doubles& weights) {
      return dot_product(doubles(g_y), normed(x_values, {}, weights, weights.size()));
    };
    expect_gradient(g_x.values(), doubles(x),
                    [&](const Doubles& values) { return loss(values, doubles(weight)); });
    expect_gradient(g_weight, doubles(weight),
                    [&](const Doubles& values) { return loss(doubles(x), values); });
  }
}

TEST(GatedGroupNormBackwardReference, IsTheDerivative) {
  for (const int64_t n_groups : {1, 3}) {
    const int64_t n_channels = n_groups * 5;
    const Matrix x = random_matrix(2, n_channels, 1, 2.0f);
    const Matrix gate = random_matrix(2, n_channels, 2, 3.0f);
    const auto weight = random_vector(n_channels, 3);
    const Matrix g_y = random_matrix(2, n_channels, 4);
    Matrix g_x(2, n_channels);
    Matrix g_gate(2, n_channels);
    std::vector<float> g_weight(static_cast<size_t>(n_channels));
    ref::gated_group_norm_backward(x, gate, weight, n_groups, kEps, g_y, g_x, g_gate, g_weight);
    const auto loss = [&](const Doubles& x_values, const Doubles& gates, const Doubles& weights) {
      return dot_product(doubles(g_y), normed(x_values, gates, weights, 5));
    };
    const Doubles xs = doubles(x), gates = doubles(gate), weights = doubles(weight);
    expect_gradient(g_x.values(), xs, [&](const Doubles& v) { return loss(v, gates, weights); });
    expect_gradient(g_gate.values(), gates, [&](const Doubles& v) { return loss(xs, v, weights); });
    expect_gradient(g_weight, weights, [&](const Doubles& v) { return loss(xs, gates, v); });
  }
}

// Gradients that are added to start from these.
Matrix before(int64_t rows, int64_t cols) { return random_matrix(rows, cols, 77); }

struct Gradients {
  Matrix x, gate, weight;
};

class NormBackward : public OnEveryTarget {
 protected:
  // The gradient's terms r w g and r n mean(w g n) round about 16 times each, SiLU and its slope
  // included, and the sums over a unit of n channels n / 8 times at worst (they run as at least 8
  // partial sums). Terms exceed the largest gradient by less than a factor of 4 here.
  static double absolute(int64_t n, double largest) {
    return (static_cast<double>(n) / 8 + 32) * kRoundoff * 4 * largest;
  }
  // A sum over tokens of g n, both at most 6 here, from n's mean square.
  static double weight_tolerance(int64_t n_tokens, int64_t n) {
    const auto tokens = static_cast<double>(n_tokens);
    return (tokens / 8 + static_cast<double>(n) / 8 + 32) * kRoundoff * (36 + 6 * tokens);
  }
  double relative() const { return is_bf16() ? roundoff() : 0; }

  Gradients rms(ConstAnyMatrixView x, const std::vector<float>& weight,
                ConstAnyMatrixView g_y) const {
    AnyMatrix g_x = to_device(before(x.rows, x.cols), device());
    AnyMatrix g_weight = to_device(before(1, x.cols), device());
    const VectorView<float> weight_sums(g_weight.view().as<float>(), x.cols, device());
    rms_norm_backward(x, vector(weight), kEps, g_y, g_x, weight_sums);
    return {to_host(g_x), {}, to_host(g_weight)};
  }
  static Gradients rms_expected(ConstMatrixView x, const std::vector<float>& weight,
                                ConstMatrixView g_y) {
    Gradients expected{before(x.rows, x.cols), {}, before(1, x.cols)};
    ref::rms_norm_backward(x, weight, kEps, g_y, expected.x, expected.weight.values());
    return expected;
  }
  Gradients gated(ConstAnyMatrixView x, ConstAnyMatrixView gate, const std::vector<float>& weight,
                  int64_t n_groups, ConstAnyMatrixView g_y) const {
    AnyMatrix g_x = new_output(x.rows, x.cols);
    AnyMatrix g_gate = new_output(x.rows, x.cols);
    AnyMatrix g_weight = to_device(before(1, x.cols), device());
    const VectorView<float> weight_sums(g_weight.view().as<float>(), x.cols, device());
    gated_group_norm_backward(x, gate, vector(weight), n_groups, kEps, g_y, g_x, g_gate,
                              weight_sums);
    return {to_host(g_x), to_host(g_gate), to_host(g_weight)};
  }
  static Gradients gated_expected(ConstMatrixView x, ConstMatrixView gate,
                                  const std::vector<float>& weight, int64_t n_groups,
                                  ConstMatrixView g_y) {
    Gradients expected{Matrix(x.rows, x.cols), Matrix(x.rows, x.cols), before(1, x.cols)};
    ref::gated_group_norm_backward(x, gate, weight, n_groups, kEps, g_y, expected.x, expected.gate,
                                   expected.weight.values());
    return expected;
  }
  void expect_gated(const Gradients& found, const Gradients& expected, int64_t width) const {
    expect_near(found.x, expected.x, absolute(width, largest_of(expected.x)), relative());
    expect_near(found.gate, expected.gate, absolute(width, largest_of(expected.gate)), relative());
    expect_near(found.weight, expected.weight, weight_tolerance(found.x.rows(), width));
  }
};
class RmsNormBackwardOnEveryTarget : public NormBackward {};
class GatedGroupNormBackwardOnEveryTarget : public NormBackward {};
VERNIER_ON_EVERY_TARGET(RmsNormBackwardOnEveryTarget);
VERNIER_ON_EVERY_TARGET(GatedGroupNormBackwardOnEveryTarget);

// Without epsilon the norm does not see the length of x: the gradient along x is zero.
TEST_P(RmsNormBackwardOnEveryTarget, WorkedByHand) {
  AnyMatrix g_x = to_device(matrix_of(1, 2, {10, 20}), device());
  Vector<float> g_weight = vector<float>({1, 2});
  // r = sqrt(2) / 5, n = (3, 4) r, w g_y = (1, 0): g = r ((1, 0) - (3, 4) r^2 3 / 2).
  rms_norm_backward(activation(matrix_of(1, 2, {3, 4})), vector<float>({1, 2}), 0,
                    activation(matrix_of(1, 2, {1, 0})), g_x, g_weight);
  const double r = std::sqrt(2.0) / 5;
  const Matrix found = to_host(g_x);
  EXPECT_NEAR(found.values()[0], 10 + r * (1 - 0.36), 1e-5);
  EXPECT_NEAR(found.values()[1], 20 + r * (0 - 0.48), 1e-5);
  EXPECT_NEAR(g_weight.to_host()[0], 1 + 3 * r, 1e-6);
  EXPECT_EQ(g_weight.to_host()[1], 2.0f);
}

// Widths of each way a device takes a row: by blocks of five sizes, by single elements; and more
// rows than runs.
TEST_P(RmsNormBackwardOnEveryTarget, AgreesWithReference) {
  for (const int64_t n_tokens : {0, 1, 5, 67}) {
    for (const int64_t n_channels :
         {1, 8, 31, 256, 512, 1000, 1003, 1024, 2688, 3136, 8192, 8200}) {
      SCOPED_TRACE(testing::Message() << n_tokens << " x " << n_channels);
      const Matrix x = rounded(random_matrix(n_tokens, n_channels, 1, 3.0f));
      const Matrix g_y = rounded(random_matrix(n_tokens, n_channels, 2));
      const auto weight = random_vector(n_channels, 3);
      const Gradients expected = rms_expected(x, weight, g_y);
      const Gradients found = rms(activation(x), weight, activation(g_y));
      expect_near(found.x, expected.x, absolute(n_channels, largest_of(expected.x)));
      expect_near(found.weight, expected.weight, weight_tolerance(n_tokens, n_channels));
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(RmsNormBackwardOnEveryTarget, ManyRows) {
  for (const int64_t n_channels : {3, 24}) {
    const Matrix x = rounded(random_matrix(5001, n_channels, 1));
    const Matrix g_y = rounded(random_matrix(5001, n_channels, 2));
    const auto weight = random_vector(n_channels, 3);
    const Gradients expected = rms_expected(x, weight, g_y);
    const Gradients found = rms(activation(x), weight, activation(g_y));
    expect_near(found.x, expected.x, absolute(n_channels, largest_of(expected.x)));
    expect_near(found.weight, expected.weight, weight_tolerance(5001, n_channels));
  }
}

// The residual stream is FP32 whatever the activations are.
TEST_P(RmsNormBackwardOnEveryTarget, TakesMixedTypes) {
  for (const int64_t n_channels : {24, 300, 2048}) {
    const Matrix x = random_matrix(9, n_channels, 1);
    const Matrix g_y = random_matrix(9, n_channels, 2);
    const auto weight = random_vector(n_channels, 3);
    const double tolerance = absolute(n_channels, 10);
    const Gradients of_fine_x = rms(to_device(x, device()), weight, activation(g_y));
    expect_near(of_fine_x.x, rms_expected(x, weight, rounded(g_y)).x, tolerance);
    const Gradients of_fine_g = rms(activation(x), weight, to_device(g_y, device()));
    expect_near(of_fine_g.x, rms_expected(rounded(x), weight, g_y).x, tolerance);
  }
}

TEST_P(RmsNormBackwardOnEveryTarget, StridedRowsWithoutTheWeights) {
  for (const int64_t first : {3, 4, 8}) {
    const Matrix x = rounded(random_matrix(9, 40, 3));
    const Matrix g_y = rounded(random_matrix(9, 50, 4));
    const auto weight = random_vector(24, 5);
    const Matrix start = before(9, 60);
    AnyMatrix g_x = to_device(start, device());
    const AnyMatrix x_there = activation(x);
    const AnyMatrix g_y_there = activation(g_y);
    rms_norm_backward(x_there.view().col_range(first, 24), vector(weight), kEps,
                      g_y_there.view().col_range(first, 24), g_x.view().col_range(first, 24), {});
    Matrix expected = start;
    ref::rms_norm_backward(x.view().col_range(first, 24), weight, kEps,
                           g_y.view().col_range(first, 24), expected.view().col_range(first, 24),
                           {});
    const Matrix found = to_host(g_x);
    expect_near(found, expected, absolute(24, largest_of(expected)));
    EXPECT_EQ(flat(found.view().col_range(0, first)), flat(start.view().col_range(0, first)));
    EXPECT_EQ(flat(found.view().col_range(first + 24, 60 - first - 24)),
              flat(start.view().col_range(first + 24, 60 - first - 24)));
  }
}

TEST_P(RmsNormBackwardOnEveryTarget, DoesNotDependOnThreads) {
  const Matrix x = rounded(random_matrix(150, 256, 10));
  const Matrix g_y = rounded(random_matrix(150, 256, 11));
  const auto weight = random_vector(256, 12);
  expect_thread_count_independent([&] {
    const Gradients plain = rms(activation(x), weight, activation(g_y));
    const Gradients gate = gated(activation(x), activation(x), weight, 4, activation(g_y));
    std::vector<float> all;
    for (const Matrix* each : {&plain.x, &plain.weight, &gate.x, &gate.gate, &gate.weight}) {
      all.insert(all.end(), each->values().begin(), each->values().end());
    }
    return all;
  });
}

TEST_P(GatedGroupNormBackwardOnEveryTarget, AgreesWithReference) {
  for (const int64_t n_tokens : {0, 1, 37}) {
    for (const int64_t n_groups : {1, 8}) {
      for (const int64_t width : {35, 40, 512, 960, 1280, 2048}) {
        SCOPED_TRACE(testing::Message() << n_tokens << " x " << n_groups << " x " << width);
        const int64_t n_channels = n_groups * width;
        const Matrix x = rounded(random_matrix(n_tokens, n_channels, 7));
        const Matrix gate = rounded(random_matrix(n_tokens, n_channels, 8, 4.0f));
        const Matrix g_y = rounded(random_matrix(n_tokens, n_channels, 9));
        const auto weight = random_vector(n_channels, 10);
        const Gradients expected = gated_expected(x, gate, weight, n_groups, g_y);
        const Gradients found =
            gated(activation(x), activation(gate), weight, n_groups, activation(g_y));
        expect_gated(found, expected, width);
        AnyMatrix in_place = activation(g_y);
        AnyMatrix g_gate = new_output(n_tokens, n_channels);
        gated_group_norm_backward(activation(x), activation(gate), vector(weight), n_groups, kEps,
                                  in_place, in_place, g_gate, {});
        EXPECT_EQ(flat(to_host(in_place)), flat(found.x));
        EXPECT_EQ(flat(to_host(g_gate)), flat(found.gate));
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Gates of large magnitude: SiLU is flat or linear there, and nothing overflows.
TEST_P(GatedGroupNormBackwardOnEveryTarget, FarGatesStayFinite) {
  const Matrix x = rounded(random_matrix(1, 8, 1));
  const Matrix gate = matrix_of(1, 8, {-200, -100, -50, -20, 20, 50, 100, 200});
  const Matrix g_y = rounded(random_matrix(1, 8, 2));
  const auto weight = random_vector(8, 3);
  expect_gated(gated(activation(x), activation(gate), weight, 1, activation(g_y)),
               gated_expected(x, gate, weight, 1, g_y), 8);
}

// The gate and its gradient lie among other columns, as they do in a projection's output.
TEST_P(GatedGroupNormBackwardOnEveryTarget, TakesStridedGates) {
  for (const int64_t first : {0, 1, 8}) {
    const Matrix wide = rounded(random_matrix(5, 100, 8));
    const Matrix x = rounded(random_matrix(5, 64, 7));
    const Matrix g_y = rounded(random_matrix(5, 64, 9));
    const auto weight = random_vector(64, 10);
    const AnyMatrix gates = activation(wide);
    AnyMatrix g_gates = activation(wide);
    AnyMatrix g_x = new_output(5, 64);
    gated_group_norm_backward(activation(x), gates.view().col_range(first, 64), vector(weight), 4,
                              kEps, activation(g_y), g_x, g_gates.view().col_range(first, 64), {});
    const Gradients expected = gated_expected(x, wide.view().col_range(first, 64), weight, 4, g_y);
    const Matrix found = to_host(g_gates);
    expect_near(to_host(g_x), expected.x, absolute(16, largest_of(expected.x)), relative());
    expect_near(found.view().col_range(first, 64), expected.gate,
                absolute(16, largest_of(expected.gate)), relative());
    EXPECT_EQ(flat(found.view().col_range(first + 64, 36 - first)),
              flat(wide.view().col_range(first + 64, 36 - first)));
  }
}

using RmsNormBackwardDeathTest = CheckDeathTest;

TEST_F(RmsNormBackwardDeathTest, ChecksShapes) {
  Matrix x(2, 6);
  std::vector<float> short_sums(5);
  const std::vector<float> weight(6);
  EXPECT_DEATH(rms_norm_backward(x, std::vector<float>(5), 0, x, x, {}), "weight.size == x.cols");
  EXPECT_DEATH(rms_norm_backward(x, weight, 0, x, x, VectorView<float>(short_sums)), "g_weight");
  EXPECT_DEATH(gated_group_norm_backward(x, x, weight, 4, 0, x, x, x, {}), "n_groups");
}

}  // namespace
}  // namespace vernier::kernels
