#include "kernels/output_error.h"

#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

class OutputErrorOnEveryTarget : public OnEveryTarget {
 protected:
  struct Sums {
    std::vector<float> squares, dots;
  };
  static constexpr float kStart = 0.25f;  // what is added to

  // Of the values that the target's activations hold.
  void expect_reference(int64_t n_tokens, int64_t n_channels) {
    const Matrix y = rounded(random_matrix(n_tokens, n_channels, 1));
    const Matrix moved = rounded(random_matrix(n_tokens, n_channels, 2));
    const Matrix g_squares = rounded(random_matrix(n_tokens, n_channels, 3, 0.1f));
    const Matrix g_dots = random_matrix(n_tokens, n_channels, 4, 0.1f);
    Sums expected = start(n_tokens);
    ref::output_error(y, moved, g_squares, g_dots, expected.squares, expected.dots);
    Vector<float> squares = vector(start(n_tokens).squares);
    Vector<float> dots = vector(start(n_tokens).dots);
    // The second gradient in FP32, as logits' gradients come.
    output_error(activation(y), activation(moved), activation(g_squares),
                 to_device(g_dots, device()), squares, dots);
    // Sums of n products in FP32, of magnitudes up to some 0.1 x 5.
    const double bound = static_cast<double>(n_channels + 4) * kRoundoff;
    for (int64_t t = 0; t < n_tokens; ++t) {
      const auto at = static_cast<size_t>(t);
      EXPECT_NEAR(squares.to_host()[at], expected.squares[at], bound * (expected.squares[at] + 1));
      EXPECT_NEAR(dots.to_host()[at], expected.dots[at],
                  bound * static_cast<double>(n_channels + 1));
    }
  }

  static Sums start(int64_t n_tokens) {
    const std::vector<float> values(static_cast<size_t>(n_tokens), kStart);
    return {values, values};
  }
};

TEST_P(OutputErrorOnEveryTarget, AgreesWithReference) {
  for (const int64_t n_channels : {1, 15, 16, 33, 257, 1000}) {
    for (const int64_t n_tokens : {1, 7, 40}) expect_reference(n_tokens, n_channels);
  }
}

TEST_P(OutputErrorOnEveryTarget, NoTokensAddNothing) { expect_reference(0, 8); }

// d = (1, -2), g = (3, 5): squares 9 + 100, dots 3 - 10.
TEST_P(OutputErrorOnEveryTarget, WorkedByHandEachAlone) {
  const AnyMatrix y = activation(matrix_of(1, 2, {1, 4}));
  const AnyMatrix moved = activation(matrix_of(1, 2, {2, 2}));
  const AnyMatrix g = activation(matrix_of(1, 2, {3, 5}));
  Vector<float> squares = vector(std::vector<float>{1});
  Vector<float> dots = vector(std::vector<float>{1});
  output_error(y, moved, g, {}, squares, {});
  output_error(y, moved, {}, g, {}, dots);
  EXPECT_EQ(squares.to_host()[0], 110);
  EXPECT_EQ(dots.to_host()[0], -6);
}

VERNIER_ON_EVERY_TARGET(OutputErrorOnEveryTarget);

}  // namespace
}  // namespace vernier::kernels
