// The whole job by several ranks, in every layout, against one rank's: the same bytes of weights,
// maxima that differ by their sums' last bits only, one report.
#include <gtest/gtest.h>

#include <cmath>
#include <mutex>
#include <string>
#include <vector>

#include "calib/quantize_model.h"
#include "calib/recording_sink.h"
#include "comm/test_layouts.h"
#include "comm/thread_ranks.h"
#include "kernels/linear.h"
#include "model/stored_model.h"
#include "model/test_network.h"
#include "quant/recipe.h"

namespace vernier::calib {
namespace {

struct Result {
  Arrived arrived;
  QuantizeReport report;
};

// Passes on to the ranks' common result, one call at a time, and finishes on the first alone.
class SharedSink : public quant::QuantizedSink {
 public:
  SharedSink(quant::QuantizedSink& common, std::mutex& mutex) : common_(common), mutex_(mutex) {}

  void write_weight(const model::Module& module, const formats::PackedView& packed) override {
    const std::lock_guard lock(mutex_);
    common_.write_weight(module, packed);
  }
  void copy_tensor(std::string_view name, const TensorView& tensor) override {
    const std::lock_guard lock(mutex_);
    common_.copy_tensor(name, tensor);
  }
  void write_input_amax(const model::Module& module, float amax) override {
    const std::lock_guard lock(mutex_);
    common_.write_input_amax(module, amax);
  }
  void write_kv_amax(const model::AttentionSite& site, float k_amax, float v_amax) override {
    const std::lock_guard lock(mutex_);
    common_.write_kv_amax(site, k_amax, v_amax);
  }
  void sync() override {}
  void finish() override {
    const std::lock_guard lock(mutex_);
    common_.finish();
  }

 private:
  quant::QuantizedSink& common_;
  std::mutex& mutex_;
};

// A recipe on a golden checkpoint's own text, cut into windows of unlike lengths.
struct Job {
  Job(const std::string& recipe_name, const std::string& kv_preset)
      : directory(model::golden_dir() / "latent/checkpoint"),
        recipe(quant::load_recipe(recipe_name)) {
    quant::append_kv_preset(recipe, kv_preset);
    const auto ids =
        model::GoldenFile(model::golden_dir() / "latent/golden.safetensors").ids("input_ids");
    for (int64_t first = 0; first < std::ssize(ids); first += 18) {
      const int64_t end = std::min<int64_t>(first + 18, std::ssize(ids));
      windows.emplace_back(ids.begin() + first, ids.begin() + end);
    }
  }

  QuantizeReport run(quant::QuantizedSink& sink, bool is_weight_only, bool is_batch_major,
                     const comm::Ranks* ranks, io::Journal* journal) const {
    const model::StoredModel stored = model::open_checkpoint(directory, ranks);
    const comm::Ranks& all = stored.model->ranks();
    const quant::QuantPlan plan =
        quant::make_plan(recipe, stored.model->tree(), {is_weight_only, false});
    const auto weights = model::share_of_weights(stored.weights, all);
    const comm::Range here = comm::part_of(std::ssize(windows), all.place().data);
    return quantize_model({.model = *stored.model,
                           .weights = *weights,
                           .checkpoint = *stored.checkpoint,
                           .plan = plan,
                           .sinks = {&sink},
                           .windows = {windows.begin() + here.begin, windows.begin() + here.end},
                           .stream = {.batch_windows = 2, .is_batch_major = is_batch_major},
                           .journal = journal});
  }

  Result on_one_rank(bool is_weight_only) const {
    Result result;
    RecordingSink sink(result.arrived);
    result.report = run(sink, is_weight_only, false, nullptr, nullptr);
    return result;
  }

  Result on_ranks(const comm::LayoutSizes& sizes, bool is_weight_only, bool is_batch_major) const {
    Result result;
    RecordingSink common(result.arrived);
    std::mutex mutex;
    comm::run_thread_ranks(static_cast<int>(sizes.world()), [&](const comm::Communicator& world) {
      kernels::configure_host_threads();
      const comm::Ranks ranks(world, comm::Layout(sizes.world(), sizes.tp, sizes.pp, sizes.ep));
      SharedSink sink(common, mutex);
      QuantizeReport report = run(sink, is_weight_only, is_batch_major, &ranks, nullptr);
      if (world.rank() == 0) result.report = std::move(report);
    });
    EXPECT_TRUE(common.is_finished());
    return result;
  }

  std::filesystem::path directory;
  quant::Recipe recipe;
  runtime::Windows windows;
};

void expect_close(float found, float expected, const std::string& what) {
  EXPECT_NEAR(found, expected, 1e-5 * expected) << what;
}

void expect_close_maxima(const Arrived& found, const Arrived& expected) {
  ASSERT_EQ(found.input_amax.size(), expected.input_amax.size());
  for (const auto& [name, amax] : expected.input_amax) {
    expect_close(found.input_amax.at(name), amax, name);
  }
  ASSERT_EQ(found.kv_amax.size(), expected.kv_amax.size());
  for (const auto& [name, amax] : expected.kv_amax) {
    expect_close(found.kv_amax.at(name).first, amax.first, name);
    expect_close(found.kv_amax.at(name).second, amax.second, name);
  }
}

// Layer by layer: the same modules in the same order, and as many tokens for each expert: no token
// was routed otherwise.
void expect_same_report(const QuantizeReport& found, const QuantizeReport& expected) {
  ASSERT_EQ(found.layers.size(), expected.layers.size());
  for (size_t index = 0; index < expected.layers.size(); ++index) {
    const LayerReport& layer = found.layers[index];
    EXPECT_EQ(layer.layer, expected.layers[index].layer);
    EXPECT_EQ(layer.expert_tokens, expected.layers[index].expert_tokens);
    EXPECT_EQ(layer.kv.size(), expected.layers[index].kv.size());
    ASSERT_EQ(layer.modules.size(), expected.layers[index].modules.size());
    for (size_t module = 0; module < layer.modules.size(); ++module) {
      EXPECT_EQ(layer.modules[module].name, expected.layers[index].modules[module].name);
      EXPECT_EQ(layer.modules[module].noise, expected.layers[index].modules[module].noise);
    }
  }
  EXPECT_EQ(found.passed_through, expected.passed_through);
}

class ManyRanks : public ::testing::TestWithParam<comm::LayoutSizes> {};

TEST_P(ManyRanks, WeightsAloneAreTheSameBytes) {
  for (const char* recipe : {"nvfp4", "fp8", "nvfp4_sweep"}) {
    const Job job(recipe, "none");
    const Result expected = job.on_one_rank(true);
    const Result found = job.on_ranks(GetParam(), true, false);
    EXPECT_EQ(found.arrived, expected.arrived) << recipe;
    expect_same_report(found.report, expected.report);
  }
}

TEST_P(ManyRanks, CalibratesToTheSameWeightsAndCloseMaxima) {
  for (const bool is_batch_major : {false, true}) {
    const Job job(is_batch_major ? "fp8" : "nvfp4", "fp8");
    const Result expected = job.on_one_rank(false);
    const Result found = job.on_ranks(GetParam(), false, is_batch_major);
    EXPECT_EQ(found.arrived.tensors, expected.arrived.tensors);
    expect_close_maxima(found.arrived, expected.arrived);
    expect_same_report(found.report, expected.report);
  }
}

// Eight experts, two Mamba groups and two KV heads; six layers.
INSTANTIATE_TEST_SUITE_P(Layouts, ManyRanks,
                         ::testing::ValuesIn(comm::all_layouts(8, {1, 2}, 4, 8)),
                         [](const auto& info) { return info.param.name(); });

}  // namespace
}  // namespace vernier::calib
