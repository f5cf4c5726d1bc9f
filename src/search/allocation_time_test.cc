// Choices within budgets of time: two linears whose times leave one assignment.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/testing.h"
#include "search/allocation.h"

namespace vernier::search {
namespace {

using ::testing::HasSubstr;

const Candidate* fp8() { return &find_candidate("fp8"); }
const Candidate* nvfp4() { return &find_candidate("nvfp4"); }

ScoredGroup group(const std::string& name, int64_t n, const std::vector<double>& scores) {
  ScoredGroup group{.name = name,
                    .modules = {name},
                    .shapes = {{n, 16, 1, 1}},
                    .n_weights = n * 16,
                    .n_active_weights = n * 16};
  for (const double score : scores) group.scores.push_back(Score{score, score, {}});
  return group;
}

// Losses in multiples of 2^-10, so that sums are exact.
Scores two_groups() {
  Scores scores;
  scores.kinds = {.fisher = true};
  scores.candidates = {fp8(), nvfp4()};
  scores.groups = {group("narrow", 16, {1 / 1024.0, 4 / 1024.0}),
                   group("wide", 32, {2 / 1024.0, 8 / 1024.0})};
  return scores;
}

// FP8 halves prefill and, for the narrow one, decodes slower; NVFP4 decodes fast and prefills slow.
GemmTable table() {
  return {.device = "a device",
          .prefill_tokens = 64,
          .decode_tokens = 1,
          .rows = {{"bf16", "none", 16, 16, false, 64, 1, 4e-3, 4e-6},
                   {"fp8_e4m3", "fp8_e4m3", 16, 16, false, 64, 1, 2e-3, 5e-6},
                   {"nvfp4", "nvfp4", 16, 16, false, 64, 1, 6e-3, 1e-6},
                   {"bf16", "none", 32, 16, false, 64, 1, 8e-3, 8e-6},
                   {"fp8_e4m3", "fp8_e4m3", 32, 16, false, 64, 1, 4e-3, 6e-6},
                   {"nvfp4", "nvfp4", 32, 16, false, 64, 1, 9e-3, 2e-6}}};
}

class AllocationOfTime : public testing::Test {
 protected:
  Assignment best(const Budget& budget, const Restrictions& restrictions = {}) const {
    return Allocator(scores_, restrictions, ScoreKind::kFisher, &table_).best(budget).chosen;
  }
  std::string refusal(const Budget& budget) const {
    const Error error = error_of([&] { best(budget); });
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
    return error.message();
  }

  Scores scores_ = two_groups();
  GemmTable table_ = table();
};

TEST_F(AllocationOfTime, AmpleBudgetsLeaveAllAsItIs) {
  EXPECT_EQ(best({.prefill_seconds = 12e-3}), (Assignment{nullptr, nullptr}));
  EXPECT_EQ(best({.decode_seconds = 12e-6}), (Assignment{nullptr, nullptr}));
}

// One nanosecond less than BF16 takes: FP8 where it costs least loss.
TEST_F(AllocationOfTime, KeepsAPrefillBudget) {
  EXPECT_EQ(best({.prefill_seconds = 12e-3 - 1e-9}), (Assignment{fp8(), nullptr}));
  EXPECT_EQ(best({.prefill_seconds = 8e-3}), (Assignment{nullptr, fp8()}));
  EXPECT_EQ(best({.prefill_seconds = 6e-3}), (Assignment{fp8(), fp8()}));
}

TEST_F(AllocationOfTime, KeepsADecodeBudget) {
  EXPECT_EQ(best({.decode_seconds = 10e-6}), (Assignment{nullptr, fp8()}));
  EXPECT_EQ(best({.decode_seconds = 7e-6}), (Assignment{nvfp4(), fp8()}));
  EXPECT_EQ(best({.decode_seconds = 3e-6}), (Assignment{nvfp4(), nvfp4()}));
}

// Of nine assignments, prefill below 10.5 ms leaves (fp8 or none, fp8), (nvfp4, fp8) and (fp8,
// none); decoding below 8 us leaves (nvfp4, fp8) alone.
TEST_F(AllocationOfTime, KeepsBothAtOnce) {
  const Budget budget{.prefill_seconds = 10.5e-3, .decode_seconds = 8e-6};
  const Assignment only = {nvfp4(), fp8()};
  EXPECT_EQ(best(budget), only);

  const Allocator allocator(scores_, {}, ScoreKind::kFisher, &table_);
  int n_kept = 0;
  for (const Candidate* narrow : allocator.options(0)) {
    for (const Candidate* wide : allocator.options(1)) {
      n_kept += allocator.keeps({narrow, wide}, budget) ? 1 : 0;
    }
  }
  EXPECT_EQ(n_kept, 1);
  EXPECT_TRUE(allocator.keeps(only, budget));
}

// (nvfp4, fp8) has 2/3 of its weights in 8 bits and 1/3 in 4.5.
TEST_F(AllocationOfTime, KeepsBitsBesideTime) {
  EXPECT_EQ(best({.bits = 7, .prefill_seconds = 10.5e-3}), (Assignment{nvfp4(), fp8()}));
  EXPECT_EQ(best({.bits = 8, .prefill_seconds = 10.5e-3}), (Assignment{fp8(), fp8()}));
}

TEST_F(AllocationOfTime, UncountedModulesTakeNoTime) {
  EXPECT_EQ(best({.prefill_seconds = 4e-3}, {.uncounted = {"wide"}}),
            (Assignment{nullptr, nullptr}));
}

TEST_F(AllocationOfTime, SaysWhatCanBeReached) {
  EXPECT_THAT(refusal({.prefill_seconds = 5e-3}),
              HasSubstr("0.005 seconds of prefilling cannot be kept: the least that these "
                        "candidates reach is 0.006"));
  EXPECT_THAT(refusal({.decode_seconds = 2e-6}), HasSubstr("seconds of decoding"));
  EXPECT_THAT(refusal({.prefill_seconds = 6e-3, .decode_seconds = 3e-6}),
              HasSubstr("cannot be kept together"));
}

TEST_F(AllocationOfTime, NeedsATable) {
  const Allocator allocator(scores_, {}, ScoreKind::kFisher, nullptr);
  const Error error = error_of([&] { allocator.best({.prefill_seconds = 1}); });
  EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
  EXPECT_THAT(error.message(), HasSubstr("--gemm-table"));
}

TEST_F(AllocationOfTime, NeedsRowsOfItsShapes) {
  table_.rows.pop_back();
  EXPECT_THAT(refusal({.decode_seconds = 1e-5}), HasSubstr("no row for nvfp4 weights of 32 x 16"));
}

}  // namespace
}  // namespace vernier::search
