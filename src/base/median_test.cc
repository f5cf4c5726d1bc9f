#include "base/median.h"

#include <gtest/gtest.h>

namespace vernier {
namespace {

TEST(Median, IsTheMiddleWhateverTheOrder) {
  EXPECT_EQ(median({7}), 7);
  EXPECT_EQ(median({3, 100, 1}), 3);
  EXPECT_EQ(median({4, 1, 3, 2}), 3);
}

}  // namespace
}  // namespace vernier
