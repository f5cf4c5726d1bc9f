#include "comm/layout.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <vector>

#include "base/testing.h"

namespace vernier::comm {
namespace {

// Shares by dealing the runs out one by one, the last share first; then in order.
std::vector<int64_t> dealt_sizes(int64_t n_runs, int64_t n_shares) {
  std::vector<int64_t> sizes(static_cast<size_t>(n_shares));
  for (int64_t run = 0; run < n_runs; ++run) ++sizes[sizes.size() - 1 - run % sizes.size()];
  return sizes;
}

TEST(LayoutTest, PartsAreDealtOutEvenlyAndCoverAll) {
  for (int64_t n_runs = 0; n_runs <= 20; ++n_runs) {
    for (int64_t n_shares = 1; n_shares <= 8; ++n_shares) {
      for (const int64_t unit : {1, 3}) {
        int64_t begin = 0;
        const std::vector<int64_t> sizes = dealt_sizes(n_runs, n_shares);
        for (int64_t index = 0; index < n_shares; ++index) {
          const Range expected{begin, begin + sizes[index] * unit};
          EXPECT_EQ(part_of(n_runs * unit, {index, n_shares}, unit), expected)
              << n_runs << " runs, share " << index << " of " << n_shares;
          begin = expected.end;
        }
        EXPECT_EQ(begin, n_runs * unit);
      }
    }
  }
}

bool fits(int64_t world, int64_t tp, int64_t pp, int64_t ep) {
  for (int64_t dp = 1; dp <= world; ++dp) {
    if (tp * pp * dp != world) continue;
    for (int64_t copies = 1; copies <= tp * dp; ++copies) {
      if (copies * ep == tp * dp) return true;
    }
  }
  return false;
}

// What the header says, by counting: tensor ranks run fastest, then replicas, then stages; within a
// stage, expert ranks run fastest, then copies.
void expect_places(const Layout& layout) {
  int64_t rank = 0;
  for (int64_t stage = 0; stage < layout.pp(); ++stage) {
    int64_t expert = 0, copy = 0;
    for (int64_t replica = 0; replica < layout.dp(); ++replica) {
      for (int64_t tensor = 0; tensor < layout.tp(); ++tensor) {
        const Place place = layout.place(rank++);
        EXPECT_EQ(place.tensor, (Share{tensor, layout.tp()}));
        EXPECT_EQ(place.data, (Share{replica, layout.dp()}));
        EXPECT_EQ(place.pipeline, (Share{stage, layout.pp()}));
        EXPECT_EQ(place.expert, (Share{expert, layout.ep()}));
        EXPECT_EQ(place.expert_copy, copy);
        if (++expert == layout.ep()) expert = 0, ++copy;
      }
    }
  }
  EXPECT_EQ(rank, layout.world());
}

void for_each_size(const std::function<void(int64_t, int64_t, int64_t, int64_t)>& body) {
  constexpr int64_t kMaxSize = 16;
  for (int64_t world = 1; world <= kMaxSize; ++world) {
    for (int64_t tp = 1; tp <= kMaxSize; ++tp) {
      for (int64_t pp = 1; pp <= kMaxSize; ++pp) {
        for (int64_t ep = 1; ep <= kMaxSize; ++ep) body(world, tp, pp, ep);
      }
    }
  }
}

TEST(LayoutTest, EveryLayoutOfUpTo16RanksIsAcceptedOrRejectedAndPlacedByTheDefinition) {
  for_each_size([](int64_t world, int64_t tp, int64_t pp, int64_t ep) {
    SCOPED_TRACE(testing::Message()
                 << world << " ranks, tp " << tp << " pp " << pp << " ep " << ep);
    if (!fits(world, tp, pp, ep)) {
      EXPECT_THROW(Layout(world, tp, pp, ep), Error);
      return;
    }
    const Layout layout(world, tp, pp, ep);
    EXPECT_EQ(layout.world(), world);
    EXPECT_EQ(layout.stage_size(), world / pp);
    expect_places(layout);
  });
}

TEST(LayoutTest, SixteenRanksOfTwoStagesSpreadExpertsOverTheTensorRanks) {
  const Layout layout(16, 8, 2, 8);
  EXPECT_EQ(layout.dp(), 1);
  EXPECT_EQ(layout.describe(), "16 ranks: tp 8, pp 2, ep 8, dp 1");
  for (int64_t rank = 0; rank < 16; ++rank) {
    const Place place = layout.place(rank);
    EXPECT_EQ(place.expert, place.tensor);
    EXPECT_EQ(place.pipeline.index, rank / 8);
    EXPECT_EQ(place.expert_copy, 0);
  }
}

TEST(LayoutTest, OneRankHoldsAll) {
  EXPECT_EQ(Layout().describe(), "1 rank: tp 1, pp 1, ep 1, dp 1");
  EXPECT_EQ(Layout().place(0).tensor, Share());
}

TEST(LayoutTest, RejectsSizesThatDoNotFitInOneSentence) {
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  struct Case {
    int64_t world, tp, pp, ep;
    const char* message;
  };
  const Case cases[] = {
      {16, 3, 2, 1, "16 ranks were started, expected a multiple of 6 (--tp 3 times --pp 2)"},
      {1, 8, 1, 1, "--tp is 8, expected at most 1, the number of ranks that were started"},
      {8, 0, 1, 1, "--tp is 0, expected at least 1"},
      {8, 1, -2, 1, "--pp is -2, expected at least 1"},
      {8, 1, 1, 0, "--ep is 0, expected at least 1"},
      {8, kHuge, 2, 1,
       "--tp is 9223372036854775807, expected at most 8, the number of ranks that were "
       "started"},
      {8, 2, 2, 3, "--ep is 3, expected a divisor of 4 (the 8 ranks over --pp 2)"},
      {8, 2, 2, 8, "--ep is 8, expected a divisor of 4 (the 8 ranks over --pp 2)"},
  };
  for (const Case& bad : cases) {
    const Error error = error_of([&] { Layout(bad.world, bad.tp, bad.pp, bad.ep); });
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
    EXPECT_EQ(error.message(), bad.message);
  }
}

}  // namespace
}  // namespace vernier::comm
