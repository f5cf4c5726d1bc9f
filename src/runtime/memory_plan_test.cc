#include "runtime/memory_plan.h"

#include <gtest/gtest.h>

#include "base/testing.h"
#include "model/stored_model.h"
#include "model/test_network.h"
#include "runtime/planned_device.h"

namespace vernier::runtime {
namespace {

// Worked by hand for the latent model: hidden size 64, 384 tokens; two Mamba layers (4 heads of 32,
// state 16, 2 groups, 4 taps), one attention layer (2 KV heads of 32), an MLP, two MoE layers of 8
// experts of which 3 are visited.
class LatentPlan : public ::testing::Test {
 protected:
  MemoryPlan plan(const JobSize& job, int64_t limit) const {
    return plan_memory(*stored_.model, job, {.host_bytes = limit});
  }

  const model::StoredModel stored_ =
      model::open_checkpoint(model::golden_dir() / "latent/checkpoint");
  const JobSize job_{.n_windows = 8, .window_tokens = 128};

  // KV of 8 windows: 8 * 128 tokens * 2 * 64 floats.
  static constexpr int64_t kStateBytes = 8 * 128 * 2 * 64 * 4;
  // 1024 tokens of the widest linear, in_proj's 2 * 128 + 2 * 2 * 16 + 4 outputs, four times.
  static constexpr int64_t kScratchBytes = 4 * 1024 * 324 * 4;
  // Half of the embedding's BF16.
  static constexpr int64_t kPackedBytes = 384 * 64;
  static constexpr int64_t kFixedBytes = kStateBytes + kScratchBytes + kPackedBytes;
  static constexpr int64_t kHiddenBytes = 1024 * 64 * 4;
};

TEST_F(LatentPlan, AllInMemory) {
  const MemoryPlan plan = this->plan(job_, int64_t{1} << 30);
  // An MoE layer: 8 experts of 2 * 48 * 32, shared expert 2 * 96 * 64, latent projections 2 * 32 *
  // 64, gate 8 * 64 + 8, norm 64; two bytes each.
  EXPECT_EQ(plan.largest_layer_bytes,
            2 * (8 * 2 * 48 * 32 + 2 * 96 * 64 + 2 * 32 * 64 + 8 * 64 + 8 + 64));
  EXPECT_EQ(plan.largest_tensor_bytes, 2 * 384 * 64);
  EXPECT_EQ(plan.batch_windows, 8);
  EXPECT_EQ(plan.hidden_bytes, kHiddenBytes);
  EXPECT_EQ(plan.state_bytes, kStateBytes);
  EXPECT_EQ(plan.placement, HiddenPlacement::kMemory);
  EXPECT_EQ(plan.anonymous_bytes, kFixedBytes + kHiddenBytes);
  // in_proj and out_proj twice, attention, MLP, MoE's shared parts and 3 experts twice, head.
  const int64_t active = 2 * (324 * 64 + 64 * 128) + (128 + 64 + 64 + 128) * 64 + 2 * 160 * 64 +
                         2 * (2 * 96 * 64 + 2 * 32 * 64 + 3 * 2 * 48 * 32) + 384 * 64;
  EXPECT_EQ(plan.forward_flops, 2 * 1024 * active);
}

TEST_F(LatentPlan, TwoPassesKeepTwoStores) {
  const MemoryPlan plan =
      this->plan({.n_windows = 8, .window_tokens = 128, .n_passes = 2}, int64_t{1} << 30);
  EXPECT_EQ(plan.hidden_bytes, 2 * kHiddenBytes);
  EXPECT_EQ(plan.anonymous_bytes, kFixedBytes + 2 * kHiddenBytes);
}

TEST_F(LatentPlan, HiddenStatesGoToAFileWhenTheyDoNotFit) {
  EXPECT_EQ(plan(job_, kFixedBytes + kHiddenBytes).placement, HiddenPlacement::kMemory);
  for (const int64_t limit : {kFixedBytes + kHiddenBytes - 1, kFixedBytes}) {
    const MemoryPlan plan = this->plan(job_, limit);
    EXPECT_EQ(plan.placement, HiddenPlacement::kFile);
    EXPECT_EQ(plan.anonymous_bytes, kFixedBytes);
    EXPECT_EQ(plan.hidden_bytes, kHiddenBytes);
  }
}

TEST_F(LatentPlan, RefusesWithTheNumbers) {
  const Error error = error_of([&] { plan(job_, kFixedBytes - 1); });
  EXPECT_EQ(error.kind(), ErrorKind::kOutOfMemory);
  EXPECT_EQ(
      error.message(),
      "the job needs 5857280 bytes of memory besides mapped files, 5857279 are available to it; "
      "use shorter sequences (--calib-seq-length) or raise --max-memory");
}

// One window alone is more than a batch, and layers take it in pieces of 4096 tokens.
TEST_F(LatentPlan, LongWindowsGoOneByOne) {
  const MemoryPlan plan = this->plan({.n_windows = 4, .window_tokens = 131072}, int64_t{1} << 32);
  EXPECT_EQ(plan.batch_windows, 1);
  EXPECT_EQ(plan.state_bytes, int64_t{131072} * 2 * 64 * 4);
  EXPECT_EQ(plan.hidden_bytes, int64_t{4} * 131072 * 64 * 4);
  EXPECT_EQ(plan.anonymous_bytes,
            plan.hidden_bytes + plan.state_bytes + 4 * 4096 * 324 * 4 + kPackedBytes);
}

TEST_F(LatentPlan, BatchesHoldAbout16384Tokens) {
  EXPECT_EQ(plan({.n_windows = 512, .window_tokens = 512}, 0).batch_windows, 32);
  EXPECT_EQ(plan({.n_windows = 512, .window_tokens = 4096}, 0).batch_windows, 4);
  EXPECT_EQ(plan({.n_windows = 512, .window_tokens = 1000}, 0).batch_windows, 16);
}

TEST_F(LatentPlan, WithoutAForwardPassOnlyAPackedTensorIsHeld) {
  const MemoryPlan plan = this->plan({}, 0);
  EXPECT_EQ(plan.batch_windows, 0);
  EXPECT_EQ(plan.hidden_bytes, 0);
  EXPECT_EQ(plan.forward_flops, 0);
  EXPECT_EQ(plan.anonymous_bytes, kPackedBytes);
}

// A tile holds the head, the largest linear, whole: 384 rows of 64.
TEST_F(LatentPlan, ADevicesTileOfDecodedWeightsIsCounted) {
  const auto device_plan = [&](Device& device, bool decodes_weights) {
    JobSize job = job_;
    job.decodes_weights = decodes_weights;
    const MemoryLimits limits{
        .host_bytes = 1 << 30, .device = &device, .device_bytes = int64_t{1} << 32};
    return plan_memory(*stored_.model, job, limits).device;
  };
  PlannedDevice bf16(DType::kBF16);
  const DevicePlan plain = device_plan(bf16, false);
  const DevicePlan packed = device_plan(bf16, true);
  EXPECT_EQ(packed.scratch_bytes - plain.scratch_bytes, 384 * 64 * 2);
  EXPECT_EQ(packed.total_bytes - plain.total_bytes, 384 * 64 * 2);
  // Products in FP32 decode BF16 too.
  PlannedDevice fp32(DType::kF32);
  EXPECT_EQ(device_plan(fp32, false).scratch_bytes, device_plan(fp32, true).scratch_bytes);
}

TEST(AvailableMemory, IsMoreThanThisProcessNeeds) {
  EXPECT_GT(available_memory_bytes(), int64_t{16} << 20);
}

}  // namespace
}  // namespace vernier::runtime
