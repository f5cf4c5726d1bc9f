#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace vernier::runtime {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
const std::vector<float> kLogits = {0.5f, 2.0f, -1.0f, 1.5f, 2.0f, 0.0f};

std::vector<int32_t> draw(const std::vector<float>& logits, const SamplingOptions& options,
                          uint32_t sequence, int n_steps) {
  std::vector<int32_t> ids;
  for (int step = 0; step < n_steps; ++step) {
    ids.push_back(sample(logits, options, sequence, static_cast<uint64_t>(step)));
  }
  return ids;
}

TEST(Sampler, GreedyTakesTheLargestAndOfEqualOnesTheLowestId) {
  EXPECT_EQ(sample(kLogits, {}, 0, 0), 1);
  EXPECT_EQ(sample(std::vector<float>{3, 3, 3}, {}, 5, 9), 0);
  EXPECT_EQ(sample(std::vector<float>{-kInf, -2, -1}, {}, 0, 0), 2);
}

TEST(Sampler, NothingButTheLargestLeftIsGreedy) {
  const SamplingOptions top_one{.temperature = 1, .top_k = 1, .seed = 3};
  const SamplingOptions tiny_nucleus{.temperature = 1, .top_p = 1e-9, .seed = 3};
  for (const SamplingOptions& options : {top_one, tiny_nucleus}) {
    for (const int32_t id : draw(kLogits, options, 0, 100)) EXPECT_EQ(id, 1);
  }
}

// Counts of 20000 draws against exact probabilities: the sum of (seen - expected)^2 / expected
// follows a chi-square distribution with at most 5 degrees of freedom, which exceeds 36 once in a
// million seeds; the seed is fixed.
void expect_distribution(const SamplingOptions& options, const std::vector<double>& probabilities) {
  constexpr int kDraws = 20000;
  std::vector<int> counts(kLogits.size());
  for (const int32_t id : draw(kLogits, options, 2, kDraws)) ++counts[static_cast<size_t>(id)];
  double chi_square = 0;
  for (size_t id = 0; id < probabilities.size(); ++id) {
    const double expected = probabilities[id] * kDraws;
    if (expected == 0) {
      EXPECT_EQ(counts[id], 0) << "id " << id;
    } else {
      chi_square += (counts[id] - expected) * (counts[id] - expected) / expected;
    }
  }
  EXPECT_LT(chi_square, 36);
}

// Softmax of the logits over the temperature, over the given ids alone.
std::vector<double> softmax_of(const std::vector<int>& kept, double temperature) {
  double sum = 0;
  for (int id : kept) sum += std::exp(kLogits[static_cast<size_t>(id)] / temperature);
  std::vector<double> probabilities(kLogits.size());
  for (int id : kept) {
    const auto index = static_cast<size_t>(id);
    probabilities[index] = std::exp(kLogits[index] / temperature) / sum;
  }
  return probabilities;
}

TEST(Sampler, DrawsFromTheSoftmax) {
  expect_distribution({.temperature = 1, .seed = 11}, softmax_of({0, 1, 2, 3, 4, 5}, 1));
  expect_distribution({.temperature = 0.5, .seed = 12}, softmax_of({0, 1, 2, 3, 4, 5}, 0.5));
}

TEST(Sampler, TopKKeepsTheMostLikely) {
  expect_distribution({.temperature = 1, .top_k = 3, .seed = 13}, softmax_of({1, 3, 4}, 1));
  // Of the two equal best ones, the lower id is kept.
  expect_distribution({.temperature = 1, .top_k = 1, .seed = 13}, softmax_of({1}, 1));
  // More than there are is all.
  expect_distribution({.temperature = 1, .top_k = 99, .seed = 14},
                      softmax_of({0, 1, 2, 3, 4, 5}, 1));
}

// Shares at temperature 1, best first: 0.33, 0.33, 0.20, 0.074, 0.045, 0.017. Two reach 0.6, three
// 0.7.
TEST(Sampler, TopPKeepsTheShortestPrefixThatReachesIt) {
  expect_distribution({.temperature = 1, .top_p = 0.6, .seed = 15}, softmax_of({1, 4}, 1));
  expect_distribution({.temperature = 1, .top_p = 0.7, .seed = 16}, softmax_of({1, 3, 4}, 1));
}

// Among the best three alone the shares are 0.38, 0.38, 0.23: two of them reach 0.7.
TEST(Sampler, TopPAppliesToWhatTopKLeft) {
  expect_distribution({.temperature = 1, .top_k = 3, .top_p = 0.7, .seed = 17},
                      softmax_of({1, 4}, 1));
}

TEST(Sampler, RepeatsWithTheSeedAndDiffersBetweenStreams) {
  const SamplingOptions options{.temperature = 1, .seed = 42};
  EXPECT_EQ(draw(kLogits, options, 0, 50), draw(kLogits, options, 0, 50));
  EXPECT_NE(draw(kLogits, options, 0, 50), draw(kLogits, options, 1, 50));
  EXPECT_NE(draw(kLogits, options, 0, 50), draw(kLogits, {.temperature = 1, .seed = 43}, 0, 50));
}

TEST(Sampler, NeverDrawsWhatIsExcluded) {
  const std::vector<float> logits = {-kInf, 0, -kInf, 0};
  for (const int32_t id : draw(logits, {.temperature = 2, .seed = 1}, 0, 200)) {
    EXPECT_EQ(id % 2, 1);
  }
}

}  // namespace
}  // namespace vernier::runtime
