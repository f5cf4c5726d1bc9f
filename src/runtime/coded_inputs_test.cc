// Norms and squares that write codes themselves, as they do where nobody watches, against linears
// that code what they are shown: the same logits, on the host and on a device.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "model/repacked_weights.h"
#include "model/stored_model.h"
#include "model/test_network.h"
#include "runtime/device_weights.h"
#include "runtime/head.h"

namespace vernier::runtime {
namespace {

struct Place {
  const char* name;
  bool is_device;
  DType compute_dtype;
};
constexpr Place kPlaces[] = {{"host", false, DType::kF32},
                             {"cuda_f32", true, DType::kF32},
                             {"cuda_bf16", true, DType::kBF16}};

class CodedInputs : public ::testing::TestWithParam<std::tuple<Place, const formats::Format*>> {
 protected:
  void SetUp() override {
    const Place& place = std::get<0>(GetParam());
    if (!place.is_device) return;
    if (n_devices() == 0) GTEST_SKIP() << "no CUDA device";
    device_ = open_device({.compute_dtype = place.compute_dtype});
  }
  Device* device() const { return device_.get(); }

  // The golden network, its linears packed in the format with a rule for their inputs.
  std::shared_ptr<const model::WeightSource> weights_of(const model::StoredModel& stored) const {
    auto packed = std::make_shared<model::RepackedWeights>(
        *stored.weights, *std::get<1>(GetParam()), /*is_decoded=*/false);
    if (device() == nullptr) return packed;
    return std::make_shared<DeviceWeights>(packed, *device());
  }

 private:
  std::unique_ptr<Device> device_;
};

// Prefill of two sequences, then single tokens, which take other products.
TEST_P(CodedInputs, GiveTheLogitsThatAHookSees) {
  for (const char* name : {"latent", "grouped"}) {
    const model::StoredModel stored =
        model::open_checkpoint(model::golden_dir() / name / "checkpoint");
    const model::GoldenFile golden(model::golden_dir() / name / "golden.safetensors");
    const std::vector<int32_t> ids = golden.ids("input_ids");
    const auto weights = weights_of(stored);
    model::Network alone(*stored.model, *weights, 2);
    model::Network watched(*stored.model, *weights, 2);
    model::SiteHook nothing;
    for (const std::vector<int64_t>& n_tokens :
         std::vector<std::vector<int64_t>>{{70, 60}, {1, 1}, {0, 1}}) {
      const auto n = static_cast<size_t>(n_tokens[0] + n_tokens[1]);
      const auto part = std::span(ids).first(n);
      model::expect_equal(alone.forward(part, n_tokens), watched.forward(part, n_tokens, &nothing),
                          name);
    }
  }
}

TEST_P(CodedInputs, OfTheHeadGiveTheSameLogits) {
  const model::StoredModel stored =
      model::open_checkpoint(model::golden_dir() / "latent/checkpoint");
  const model::GoldenFile golden(model::golden_dir() / "latent/golden.safetensors");
  const auto weights = weights_of(stored);
  const ConstMatrixView states = golden.matrix("hidden.0");
  for (const int64_t n_tokens : {1, 75}) {
    const AnyMatrix hidden = to_device(states.row_range(0, n_tokens), device());
    AnyMatrix alone(n_tokens, stored.model->vocab_size(), DType::kF32, device());
    AnyMatrix watched(n_tokens, stored.model->vocab_size(), DType::kF32, device());
    model::SiteHook nothing;
    compute_logits(*stored.model, *weights, hidden, nullptr, alone);
    compute_logits(*stored.model, *weights, hidden, &nothing, watched);
    model::expect_equal(alone, watched, "logits");
  }
}

INSTANTIATE_TEST_SUITE_P(Everywhere, CodedInputs,
                         ::testing::Combine(::testing::ValuesIn(kPlaces),
                                            ::testing::ValuesIn(formats::all_formats())),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param).name) + "_" +
                                  std::string(std::get<1>(info.param)->name);
                         });

}  // namespace
}  // namespace vernier::runtime
