#include "base/phases.h"

#include <gtest/gtest.h>

namespace vernier {
namespace {

TEST(PhaseTimes, AddsUpByPhaseInOrderOfFirstUse) {
  PhaseTimes times;
  times.add("load", 1);
  times.add("forward", 2);
  times.add("load", 0.5);
  ASSERT_EQ(times.phases().size(), 2u);
  EXPECT_EQ(times.phases()[0], (std::pair<std::string, double>("load", 1.5)));
  EXPECT_EQ(times.phases()[1].first, "forward");
}

TEST(PhaseTimes, ATimerAddsItsLifeAndNothingWithoutTimes) {
  PhaseTimes times;
  { const PhaseTimer timer(&times, "load"); }
  { const PhaseTimer timer(nullptr, "forward"); }
  ASSERT_EQ(times.phases().size(), 1u);
  EXPECT_GE(times.phases()[0].second, 0);
}

}  // namespace
}  // namespace vernier
