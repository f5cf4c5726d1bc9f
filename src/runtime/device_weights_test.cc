// The network on a device: the golden vectors with FP32 activations, within rounding with BF16.
#include "runtime/device_weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/testing.h"
#include "model/stored_model.h"
#include "model/test_network.h"
#include "runtime/generator.h"
#include "runtime/layer_stream.h"

namespace vernier::runtime {
namespace {

using model::Network;

class OnDevice : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (n_devices() == 0) GTEST_SKIP() << "no CUDA device";
    open(DType::kF32);
  }
  void open(DType compute_dtype) {
    weights_.reset();
    device_ = open_device({.compute_dtype = compute_dtype});
    weights_ = std::make_shared<DeviceWeights>(stored_.weights, *device_);
  }
  Network network(size_t n_sequences) const {
    return Network(*stored_.model, *weights_, n_sequences);
  }

  const model::StoredModel stored_ =
      model::open_checkpoint(model::golden_dir() / GetParam() / "checkpoint");
  const model::GoldenFile golden_{model::golden_dir() / GetParam() / "golden.safetensors"};
  const std::vector<int32_t> ids_ = golden_.ids("input_ids");
  const std::vector<int64_t> both_ = {75, 75};
  std::unique_ptr<Device> device_;
  std::shared_ptr<const DeviceWeights> weights_;
};

TEST_P(OnDevice, GivesTheGoldenHiddenStatesAndLogits) {
  model::expect_golden_states(network(2), golden_);
}

TEST_P(OnDevice, DecodesTokenByToken) { model::expect_golden_tokens(network(1), golden_); }

TEST_P(OnDevice, SequencesAdvanceByDifferentLengths) {
  model::expect_golden_pieces(network(2), golden_);
}

TEST_P(OnDevice, ContinuesGreedilyAsTheOracle) {
  const std::vector<int32_t> expected = golden_.ids("greedy_ids");
  const Generator generator(*stored_.model, *weights_, {});
  std::vector<int32_t> ids(expected.begin(), expected.begin() + 20);
  const Generation generation = generator.generate(ids, 24, {}, 0, nullptr);
  ids.insert(ids.end(), generation.ids.begin(), generation.ids.end());
  EXPECT_EQ(ids, expected);
}

// The same queue of work, whatever holds the hidden states in between.
TEST_P(OnDevice, PlacementOfHiddenStatesDoesNotMatter) {
  const TemporaryDirectory directory;
  const Windows windows = {{ids_.begin(), ids_.begin() + 75}, {ids_.begin() + 75, ids_.end()}};
  StreamOptions options{.batch_windows = 1,
                        .placement = HiddenPlacement::kDevice,
                        .spill_directory = directory.path()};
  const Matrix there = to_host(stream_layers(*stored_.model, *weights_, windows, options).view());
  for (const HiddenPlacement placement : {HiddenPlacement::kMemory, HiddenPlacement::kFile}) {
    options.placement = placement;
    const HiddenStore here = stream_layers(*stored_.model, *weights_, windows, options);
    device_->synchronize();
    model::expect_equal(here.view(), there, "hidden states");
  }
}

TEST_P(OnDevice, StreamingLeavesNothingBehind) {
  device_->synchronize();
  const int64_t before = device_->memory().used_bytes;
  {
    const Windows windows = {{ids_.begin(), ids_.begin() + 75}};
    const HiddenStore hidden =
        stream_layers(*stored_.model, *weights_, windows, {.placement = HiddenPlacement::kDevice});
    EXPECT_GT(device_->memory().used_bytes, before);
  }
  weights_.reset();
  device_->synchronize();
  // What the products' library keeps for itself (a workspace) stays.
  EXPECT_LE(device_->memory().used_bytes, before + (int64_t{256} << 20));
}

// BF16 rounds some hundred times on the way, each by up to 2^-9 of a value, mostly independently.
// In these random networks a router often has near-ties, and a token whose experts change is
// another token from there on: so the median token is looked at.
TEST_P(OnDevice, Bf16IsCloseToTheGoldenLogitsForMostTokens) {
  open(DType::kBF16);
  const Matrix logits = network(2).forward(ids_, both_);
  const ConstMatrixView expected = golden_.matrix("logits");
  std::vector<double> relative_errors;
  for (int64_t row = 0; row < logits.rows(); ++row) {
    double error = 0, norm = 0;
    for (int64_t col = 0; col < logits.cols(); ++col) {
      error += std::pow(double{logits.view().row(row)[col]} - expected.row(row)[col], 2);
      norm += std::pow(double{expected.row(row)[col]}, 2);
    }
    relative_errors.push_back(std::sqrt(error / norm));
  }
  std::ranges::sort(relative_errors);
  EXPECT_LT(relative_errors[relative_errors.size() / 2], 2e-2);
  EXPECT_GT(relative_errors.front(), 0);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, OnDevice, ::testing::Values("latent", "grouped"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace vernier::runtime
