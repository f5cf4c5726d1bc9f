#include "comm/ranks.h"

#include <gtest/gtest.h>

#include <vector>

#include "comm/thread_ranks.h"

namespace vernier::comm {
namespace {

// The ranks of the world that make up a group, in its order.
std::vector<int64_t> members(const Communicator& group, int rank) {
  std::vector<int64_t> all(static_cast<size_t>(group.size()));
  group.gather_all(std::vector<int64_t>{rank}, all);
  return all;
}

// Ranks of the world whose place is like this one's, as `is_like` says.
template <class IsLike>
std::vector<int64_t> ranks_like(const Layout& layout, int rank, IsLike is_like) {
  std::vector<int64_t> ranks;
  for (int64_t other = 0; other < layout.world(); ++other) {
    if (is_like(layout.place(other), layout.place(rank))) ranks.push_back(other);
  }
  return ranks;
}

void expect_groups(const Ranks& ranks, const Layout& layout, int rank) {
  const auto same_stage = [](const Place& a, const Place& b) { return a.pipeline == b.pipeline; };
  EXPECT_EQ(members(ranks.stage(), rank), ranks_like(layout, rank, same_stage));
  const auto same_samples = [](const Place& a, const Place& b) {
    return a.pipeline == b.pipeline && a.data == b.data;
  };
  EXPECT_EQ(members(ranks.tensor(), rank), ranks_like(layout, rank, same_samples));
  const auto same_copy = [](const Place& a, const Place& b) {
    return a.pipeline == b.pipeline && a.expert_copy == b.expert_copy;
  };
  EXPECT_EQ(members(ranks.expert(), rank), ranks_like(layout, rank, same_copy));
  const auto same_part = [](const Place& a, const Place& b) {
    return a.tensor == b.tensor && a.data == b.data;
  };
  EXPECT_EQ(members(ranks.pipeline(), rank), ranks_like(layout, rank, same_part));

  EXPECT_EQ(ranks.tensor().rank(), ranks.place().tensor.index);
  EXPECT_EQ(ranks.expert().rank(), ranks.place().expert.index);
  EXPECT_EQ(ranks.pipeline().rank(), ranks.place().pipeline.index);
}

TEST(RanksTest, GroupsHoldTheRanksOfLikePlaceInOrder) {
  const Layout layouts[] = {Layout(8, 2, 2, 4), Layout(8, 2, 2, 2), Layout(8, 4, 1, 2),
                            Layout(6, 1, 3, 2), Layout(16, 8, 2, 8)};
  for (const Layout& layout : layouts) {
    SCOPED_TRACE(layout.describe());
    run_thread_ranks(static_cast<int>(layout.world()), [&](const Communicator& world) {
      expect_groups(Ranks(world, layout), layout, world.rank());
    });
  }
}

TEST(RanksTest, OneRankTalksToNobody) {
  const Ranks ranks;
  EXPECT_EQ(ranks.layout().world(), 1);
  for (const Communicator* group :
       {&ranks.world(), &ranks.stage(), &ranks.tensor(), &ranks.expert(), &ranks.pipeline()}) {
    EXPECT_EQ(group->size(), 1);
  }
}

}  // namespace
}  // namespace vernier::comm
