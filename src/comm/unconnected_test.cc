#include "comm/unconnected.h"

#include <gtest/gtest.h>

namespace vernier::comm {
namespace {

TEST(Unconnected, KnowsItsPlaceInEveryGroup) {
  const Layout layout(16, 2, 2, 4);
  for (int64_t rank = 0; rank < layout.world(); ++rank) {
    const Ranks ranks = unconnected(layout, rank);
    const Place place = layout.place(rank);
    EXPECT_EQ(ranks.layout().describe(), layout.describe());
    EXPECT_EQ(ranks.place().tensor, place.tensor);
    EXPECT_EQ(ranks.world().rank(), rank);
    EXPECT_EQ(ranks.world().size(), 16);
    EXPECT_EQ(ranks.stage().rank(), rank % 8);
    EXPECT_EQ(ranks.stage().size(), 8);
    EXPECT_EQ(ranks.tensor().rank(), place.tensor.index);
    EXPECT_EQ(ranks.tensor().size(), 2);
    EXPECT_EQ(ranks.expert().rank(), place.expert.index);
    EXPECT_EQ(ranks.expert().size(), 4);
    EXPECT_EQ(ranks.pipeline().rank(), place.pipeline.index);
    EXPECT_EQ(ranks.pipeline().size(), 2);
  }
}

TEST(UnconnectedDeathTest, RefusesToTalk) {
  const Ranks ranks = unconnected(Layout(2, 2, 1, 1), 1);
  EXPECT_DEATH(ranks.world().barrier(), "a rank that was started");
  EXPECT_DEATH(ranks.tensor().split(0), "a rank that was started");
}

}  // namespace
}  // namespace vernier::comm
