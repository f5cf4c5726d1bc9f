#include "eval/estimate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace vernier::eval {
namespace {

// Windows of 4 positions with the means 1, 2 and 6: mean 3, deviations -2, -1, 3, variance
// (4 + 1 + 9) / 2 = 7, standard error sqrt(7 / 3).
TEST(EstimateMean, WindowsOfOneLength) {
  const Estimate estimate = estimate_mean(std::vector<WindowSum>{{4, 4}, {8, 4}, {24, 4}});
  EXPECT_DOUBLE_EQ(estimate.mean, 3);
  EXPECT_DOUBLE_EQ(estimate.standard_error, std::sqrt(7.0 / 3));
}

// 1 + 3 positions with the totals 5 and 3: mean 2, residuals 5 - 2 = 3 and 3 - 6 = -3, standard
// error sqrt(2 / 1 * 18) / 4 = 1.5.
TEST(EstimateMean, EveryPositionCountsAlike) {
  const Estimate estimate = estimate_mean(std::vector<WindowSum>{{5, 1}, {3, 3}});
  EXPECT_DOUBLE_EQ(estimate.mean, 2);
  EXPECT_DOUBLE_EQ(estimate.standard_error, 1.5);
}

// A window of one token predicts nothing.
TEST(EstimateMean, WindowsWithoutPositionsMayBeAmongThem) {
  EXPECT_DOUBLE_EQ(estimate_mean(std::vector<WindowSum>{{4, 4}, {0, 0}}).mean, 1);
}

TEST(EstimateMean, OneWindowTellsNothingOfItsError) {
  const Estimate estimate = estimate_mean(std::vector<WindowSum>{{10, 4}});
  EXPECT_DOUBLE_EQ(estimate.mean, 2.5);
  EXPECT_EQ(estimate.standard_error, 0);
}

TEST(EstimateMean, NothingHasNoMean) {
  EXPECT_TRUE(std::isnan(estimate_mean(std::vector<WindowSum>{{0, 0}}).mean));
}

}  // namespace
}  // namespace vernier::eval
