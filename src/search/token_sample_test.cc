#include "search/token_sample.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace vernier::search {
namespace {

using ::testing::ElementsAre;

TEST(TokenSample, AllRowsAreThemselves) {
  const TokenSample sample(1.0, 7, 100, 5, nullptr);
  EXPECT_THAT(sample.rows(), ElementsAre(100, 101, 102, 103, 104));
  EXPECT_TRUE(sample.within().empty());
  Matrix matrix(5, 2);
  AnyMatrix scratch;
  EXPECT_EQ(sample.of(matrix, scratch).data, matrix.view().data);
}

// One of every four neighbours, whatever the seed.
TEST(TokenSample, AShareTakesOneOfEveryRun) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const TokenSample sample(0.25, seed, 0, 400, nullptr);
    ASSERT_EQ(sample.size(), 100);
    for (int64_t run = 0; run < 100; ++run) {
      EXPECT_EQ(sample.rows()[static_cast<size_t>(run)] / 4, run);
    }
  }
}

TEST(TokenSample, SeedsDiffer) {
  EXPECT_NE(TokenSample(0.25, 1, 0, 400, nullptr).rows(),
            TokenSample(0.25, 2, 0, 400, nullptr).rows());
}

// A row is in the sample or not, wherever batches begin and end.
TEST(TokenSample, BatchesDoNotMatter) {
  for (const double share : {0.1, 0.25, 0.3, 0.5, 0.77}) {
    const TokenSample whole(share, 3, 0, 1000, nullptr);
    std::vector<int64_t> parts;
    for (const auto& [first, n_rows] : {std::pair(0, 1), {1, 6}, {7, 493}, {500, 500}}) {
      const TokenSample part(share, 3, first, n_rows, nullptr);
      parts.insert(parts.end(), part.rows().begin(), part.rows().end());
    }
    EXPECT_EQ(parts, whole.rows()) << share;
  }
}

TEST(TokenSample, GathersItsRows) {
  Matrix matrix(8, 1);
  for (int64_t row = 0; row < 8; ++row) matrix.view().row(row)[0] = static_cast<float>(row);
  const TokenSample sample(0.5, 5, 40, 8, nullptr);
  AnyMatrix scratch;
  const ConstMatrixView gathered = sample.of(matrix, scratch).host();
  ASSERT_EQ(gathered.rows, sample.size());
  for (int64_t at = 0; at < sample.size(); ++at) {
    EXPECT_EQ(gathered.row(at)[0], static_cast<float>(sample.rows()[static_cast<size_t>(at)] - 40));
  }
}

// A batch may hold none of a small share.
TEST(TokenSample, MayBeEmpty) {
  int64_t n_taken = 0;
  for (int64_t first = 0; first < 100; ++first) {
    n_taken += TokenSample(0.01, 9, first, 1, nullptr).size();
  }
  EXPECT_EQ(n_taken, 1);
}

}  // namespace
}  // namespace vernier::search
