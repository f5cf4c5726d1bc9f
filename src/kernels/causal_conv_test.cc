#include "kernels/causal_conv.h"

#include <numeric>

#include "base/error.h"
#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

float silu(float x) { return x / (1 + std::exp(-x)); }

// Sequences that follow one another in x, their histories one another in `histories`. `skew`
// columns before those of x and y, and beside histories, belong to nobody.
struct Conv {
  std::vector<int64_t> lengths;
  int64_t skew = 0;
  Matrix x, weight, histories;
  std::vector<float> bias;

  int64_t n_channels() const { return weight.rows(); }
  int64_t n_history() const { return weight.cols() - 1; }
  template <class View>
  View own(const View& matrix) const {
    return matrix.col_range(skew, n_channels());
  }
  template <class View>
  View history(const View& all, int64_t sequence) const {
    return all.row_range(sequence * n_history(), n_history()).col_range(0, n_channels());
  }
};

struct Result {
  Matrix y;
  Matrix histories;
};

Result reference(const Conv& conv) {
  Result result{Matrix(conv.x.rows(), conv.n_channels()), conv.histories};
  int64_t first = 0;
  for (size_t i = 0; i < conv.lengths.size(); ++i) {
    ref::causal_conv_silu(conv.own(conv.x.view().row_range(first, conv.lengths[i])), conv.weight,
                          conv.bias, conv.history(result.histories.view(), i),
                          result.y.view().row_range(first, conv.lengths[i]));
    first += conv.lengths[i];
  }
  return result;
}

class CausalConvOnEveryTarget : public OnEveryTarget {
 protected:
  // K products and sums in FP32, then a SiLU of 6 roundings; SiLU's slope is at most 1.1. Inputs
  // here keep the sum of magnitudes below 40. The output is rounded once more.
  static constexpr double kTolerance = 40 * 8 * kRoundoff;
  double relative_tolerance() const { return is_bf16() ? roundoff() : 0; }

  Conv random_conv(std::vector<int64_t> lengths, int64_t n_channels, int64_t n_taps,
                   int64_t skew = 0) const {
    const int64_t n_tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
    const int64_t n_histories = std::ssize(lengths) * (n_taps - 1);
    return {.lengths = std::move(lengths),
            .skew = skew,
            .x = rounded(random_matrix(n_tokens, skew + n_channels, 1)),
            .weight = random_matrix(n_channels, n_taps, 2),
            .histories = rounded(random_matrix(n_histories, n_channels + skew, 4)),
            .bias = random_vector(n_channels, 3)};
  }

  // Runs the convolution in calls of up to `part` tokens of every sequence.
  Result run(const Conv& conv, int64_t part = 1 << 30) const {
    const AnyMatrix x = activation(conv.x);
    const AnyMatrix weight = to_device(conv.weight, device());
    const auto bias = vector(conv.bias);
    AnyMatrix histories = activation(conv.histories);
    AnyMatrix y = new_output(conv.x.rows(), conv.x.cols());
    const int64_t longest = *std::ranges::max_element(conv.lengths);
    for (int64_t done = 0; done == 0 || done < longest; done += part) {
      std::vector<ConvSequence> sequences;
      int64_t first = 0;
      for (size_t i = 0; i < conv.lengths.size(); ++i) {
        const int64_t begin = std::min(done, conv.lengths[i]);
        sequences.push_back({first + begin, std::min(part, conv.lengths[i] - begin),
                             conv.history(histories.view(), i)});
        first += conv.lengths[i];
      }
      causal_conv_silu(conv.own(x.view()), weight, bias, sequences, conv.own(y.view()));
    }
    return {to_host(conv.own(y.view())), to_host(histories)};
  }

  void expect_agree(const Result& found, const Conv& conv) const {
    const Result expected = reference(conv);
    expect_near(found.y, expected.y, kTolerance, kTolerance + relative_tolerance());
    EXPECT_EQ(flat(found.histories), flat(expected.histories));
  }
};
VERNIER_ON_EVERY_TARGET(CausalConvOnEveryTarget);

TEST_P(CausalConvOnEveryTarget, WorkedByHand) {
  const Conv conv{.lengths = {2},
                  .x = matrix_of(2, 1, {10, 20}),
                  .weight = matrix_of(1, 3, {1, 2, 3}),
                  .histories = matrix_of(2, 1, {4, 5}),
                  .bias = {-40}};
  const Result result = run(conv);
  EXPECT_NEAR(result.y.values()[0], silu(4 + 10 + 30 - 40), 4 * roundoff() * 4);
  EXPECT_NEAR(result.y.values()[1], silu(5 + 20 + 60 - 40), 4 * roundoff() * 45);
  EXPECT_THAT(result.histories.values(), testing::ElementsAre(10, 20));
}

TEST_P(CausalConvOnEveryTarget, HistoryOfFewTokensShifts) {
  Conv conv{.lengths = {1},
            .x = matrix_of(1, 1, {4}),
            .weight = Matrix(1, 4),
            .histories = matrix_of(3, 1, {1, 2, 3}),
            .bias = {}};
  EXPECT_THAT(run(conv).histories.values(), testing::ElementsAre(2, 3, 4));
  conv.lengths = {0};
  conv.x = Matrix(0, 1);
  EXPECT_THAT(run(conv).histories.values(), testing::ElementsAre(1, 2, 3));
}

// Many lengths in one call; channels of every alignment.
TEST_P(CausalConvOnEveryTarget, AgreesWithReference) {
  for (const int64_t n_taps : {1, 2, 3, 4, 5, 8}) {
    for (const int64_t n_channels : {259, 1, 264, 1200}) {
      for (const int64_t skew : {0, 3, 8}) {
        SCOPED_TRACE(testing::Message() << n_taps << " taps, " << n_channels << " channels");
        const Conv conv =
            random_conv({0, 70, 1, 2, 3, 31, 32, 33, 0, 64}, n_channels, n_taps, skew);
        expect_agree(run(conv), conv);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// More than a launch on a device takes.
TEST_P(CausalConvOnEveryTarget, ManySequencesInOneCall) {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < 150; ++i) lengths.push_back(i % 40);
  const Conv conv = random_conv(lengths, 24, 4);
  expect_agree(run(conv), conv);
}

TEST_P(CausalConvOnEveryTarget, CarriesItsHistoryExactly) {
  for (const int64_t n_taps : {4, 7}) {
    const Conv conv = random_conv({50, 5, 100}, 40, n_taps);
    const Result whole = run(conv);
    for (const int64_t part : {1, 2, 3, 17, 32, 49}) {
      const Result parts = run(conv, part);
      EXPECT_EQ(flat(parts.y), flat(whole.y));
      EXPECT_EQ(flat(parts.histories), flat(whole.histories));
    }
  }
}

TEST_P(CausalConvOnEveryTarget, DoesNotDependOnThreads) {
  const Conv conv = random_conv({200}, 130, 4);
  expect_thread_count_independent([&] { return flat(run(conv).y); });
}

TEST_P(CausalConvOnEveryTarget, DeviceRefusesManyTaps) {
  if (device() == nullptr) return;  // the host takes any
  try {
    run(random_conv({3}, 2, 9));
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_THAT(error.message(), testing::HasSubstr("9 taps"));
  }
}

using CausalConvDeathTest = CheckDeathTest;

TEST_F(CausalConvDeathTest, ChecksShapes) {
  Matrix x(2, 3);
  Matrix y(2, 3);
  Matrix weight(3, 4);
  Matrix short_history(2, 3);
  Matrix history(3, 3);
  const ConvSequence misfit{0, 2, short_history};
  const ConvSequence fitting{0, 2, history};
  const ConvSequence beyond{1, 2, history};
  EXPECT_DEATH(causal_conv_silu(x, weight, {}, {&misfit, 1}, y), "history");
  EXPECT_DEATH(causal_conv_silu(x, weight, {}, {&fitting, 1}, x), "x.data != y.data");
  EXPECT_DEATH(causal_conv_silu(x, weight, {}, {&beyond, 1}, y), "all_within");
}

}  // namespace
}  // namespace vernier::kernels
