// The whole job on small checkpoints, into a sink that keeps what arrives.
#include "calib/quantize_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <optional>
#include <string>

#include "base/testing.h"
#include "calib/recording_sink.h"
#include "io/safetensors.h"
#include "model/stored_model.h"
#include "model/test_network.h"
#include "quant/recipe.h"

namespace vernier::calib {
namespace {

constexpr uint16_t kBf16Nan = 0x7FC0;
const std::string kInProj = "backbone.layers.0.mixer.in_proj.weight";
const std::string kNorm = "backbone.layers.4.norm.weight";
const std::string kMtp = "mtp.layers.0.eh_proj.weight";

// A golden checkpoint, tensors changed on the way and one added that the network does not know.
class Variant {
 public:
  using Change = std::function<void(const std::string& name, std::span<uint16_t> bf16)>;

  explicit Variant(const Change& change = nullptr) {
    const std::filesystem::path source = model::golden_dir() / "latent/checkpoint";
    std::filesystem::copy_file(source / "config.json", directory_ / "config.json");
    const io::Checkpoint checkpoint(source);
    std::vector<io::TensorDecl> decls = {{kMtp, DType::kBF16, {2, 2}}};
    for (const std::string& name : checkpoint.names()) {
      const TensorView tensor = checkpoint.tensor(name);
      decls.push_back({name, tensor.dtype, tensor.shape});
    }
    io::SafetensorsWriter writer(directory_ / "model.safetensors", decls);
    for (const io::TensorDecl& decl : decls) {
      Tensor tensor(decl.dtype, decl.shape);
      std::memset(tensor.data(), 1, static_cast<size_t>(decl.size_bytes()));
      if (decl.name != kMtp) {
        const auto bytes = checkpoint.tensor(decl.name).bytes();
        std::memcpy(tensor.data(), bytes.data(), bytes.size());
      }
      if (change && decl.dtype == DType::kBF16) change(decl.name, tensor.as<uint16_t>());
      writer.write(decl.name, tensor.view().bytes());
    }
    writer.finish();
  }

  std::filesystem::path file() const { return directory_ / "model.safetensors"; }
  model::StoredModel open() const { return model::open_checkpoint(directory_.path()); }

 private:
  TemporaryDirectory directory_;
};

// Forwards to another model and counts the layers that are loaded to run.
class CountingModel : public model::Model {
 public:
  explicit CountingModel(const model::Model& inner) : inner_(inner) {}

  const model::ModuleTree& tree() const override { return inner_.tree(); }
  const comm::Ranks& ranks() const override { return inner_.ranks(); }
  void check_layout(const comm::Layout& layout) const override { inner_.check_layout(layout); }
  int64_t hidden_size() const override { return inner_.hidden_size(); }
  int64_t vocab_size() const override { return inner_.vocab_size(); }
  const model::Module& embedding() const override { return inner_.embedding(); }
  const model::Module& head() const override { return inner_.head(); }
  int64_t active_weights() const override { return inner_.active_weights(); }
  int64_t state_bytes(int layer, int64_t n_tokens, const Device* device) const override {
    return inner_.state_bytes(layer, n_tokens, device);
  }
  int64_t scratch_bytes(int layer, int64_t n_tokens, const Device* device) const override {
    return inner_.scratch_bytes(layer, n_tokens, device);
  }
  std::unique_ptr<model::Layer> load_layer(int layer,
                                           const model::WeightSource& weights) const override {
    ++n_loaded;
    return inner_.load_layer(layer, weights);
  }
  void final_norm(ConstAnyMatrixView hidden, const model::WeightSource& weights,
                  const kernels::InputRule& rule, AnyMatrixView normed) const override {
    inner_.final_norm(hidden, weights, rule, normed);
  }
  void final_norm_backward(ConstAnyMatrixView hidden, const model::WeightSource& weights,
                           ConstAnyMatrixView g_normed, AnyMatrixView g_hidden,
                           model::GradientHook* hook) const override {
    inner_.final_norm_backward(hidden, weights, g_normed, g_hidden, hook);
  }

  mutable int n_loaded = 0;

 private:
  const model::Model& inner_;
};

quant::Recipe recipe_of(const std::string& name, const std::string& kv_preset) {
  quant::Recipe recipe = quant::load_recipe(name);
  quant::append_kv_preset(recipe, kv_preset);
  return recipe;
}

// Everything that the network may have quantized: the head and its input, and the embedding too.
quant::Recipe widest_recipe() {
  quant::Recipe recipe = recipe_of("nvfp4", "fp8");
  const quant::QuantizerConfig config{.format = formats::find_format("nvfp4")};
  for (const char* pattern :
       {"lm_head.weight_quantizer", "lm_head.input_quantizer", "*embeddings.weight_quantizer"}) {
    quant::Rule rule;
    rule.pattern = pattern;
    rule.config = config;
    rule.origin = "test";
    recipe.rules.push_back(rule);
  }
  return recipe;
}

// A model, a plan and text.
struct Setting {
  explicit Setting(const quant::Recipe& recipe, bool weight_only = false,
                   const Variant::Change& change = nullptr)
      : variant(change),
        stored(variant.open()),
        model(*stored.model),
        plan(quant::make_plan(recipe, stored.model->tree(), {weight_only, false})) {
    if (!plan.needs_calibration()) return;
    const auto ids =
        model::GoldenFile(model::golden_dir() / "latent/golden.safetensors").ids("input_ids");
    windows = {{ids.begin(), ids.begin() + 75}, {ids.begin() + 75, ids.end()}};
  }

  QuantizeReport run(quant::QuantizedSink& sink, io::Journal* journal = nullptr,
                     double all_experts_ratio = 0) const {
    return quantize_model({.model = model,
                           .weights = *stored.weights,
                           .checkpoint = *stored.checkpoint,
                           .plan = plan,
                           .sinks = {&sink},
                           .windows = windows,
                           .stream = {.batch_windows = 1},
                           .all_experts_ratio = all_experts_ratio,
                           .journal = journal});
  }
  Arrived arrived(double all_experts_ratio = 0) const {
    Arrived arrived;
    RecordingSink sink(arrived);
    run(sink, nullptr, all_experts_ratio);
    EXPECT_TRUE(sink.is_finished());
    return arrived;
  }
  const quant::SitePlan& site(const std::string& module) const {
    return plan.site(*stored.model->tree().find(module));
  }

  Variant variant;
  model::StoredModel stored;
  CountingModel model;
  quant::QuantPlan plan;
  runtime::Windows windows;
};

std::string bytes_of(const TensorView& tensor) {
  return {reinterpret_cast<const char*>(tensor.bytes().data()), tensor.bytes().size()};
}

// The planes a module should have: encoded alone, or under the largest amax of q, k and v.
std::map<std::string, std::string> expected_planes(const Setting& setting,
                                                   const quant::SitePlan& site) {
  const TensorView weight = setting.stored.checkpoint->tensor(site.module->tensors[0].name);
  formats::EncodeOptions options{.rule = site.scale_rule};
  if (!site.module->fusion_group.empty() && shares_scales_when_fused(*site.weight_format)) {
    float amax = 0;
    for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
      amax = std::max(
          amax, formats::scan_amax(setting.stored.checkpoint->tensor("backbone.layers.2.mixer." +
                                                                     std::string(name) + ".weight"))
                    .amax);
    }
    options.global_amax = amax;
  }
  const formats::PackedTensor packed = site.weight_format->encode(weight, options);
  std::map<std::string, std::string> planes;
  for (const formats::PlaneSpec& plane : site.weight_format->planes) {
    planes[site.module->name + "." + std::string(plane.suffix)] =
        bytes_of(packed.view().plane(plane.role));
  }
  return planes;
}

class EveryRecipe : public ::testing::TestWithParam<std::string> {
 protected:
  static quant::Recipe recipe() {
    return GetParam() == "widest" ? widest_recipe() : recipe_of(GetParam(), "none");
  }
};

// The sink fails the test when a name comes twice.
TEST_P(EveryRecipe, EveryTensorArrivesOnceAsEncodedOrAsItWas) {
  const Setting setting(recipe());
  std::map<std::string, std::string> expected;
  for (const std::string& name : setting.stored.checkpoint->names()) {
    expected[name] = bytes_of(setting.stored.checkpoint->tensor(name));
  }
  for (const quant::SitePlan& site : setting.plan.sites) {
    if (!site.is_quantized()) continue;
    for (auto& [name, bytes] : expected_planes(setting, site)) expected[name] = bytes;
  }
  const Arrived arrived = setting.arrived();
  ASSERT_EQ(arrived.tensors.size(), expected.size());
  for (const auto& [name, bytes] : expected) EXPECT_EQ(arrived.tensors.at(name), bytes) << name;
}

TEST_P(EveryRecipe, RunsRepeat) {
  const Setting setting(recipe());
  EXPECT_EQ(setting.arrived(), setting.arrived());
}

INSTANTIATE_TEST_SUITE_P(Recipes, EveryRecipe,
                         ::testing::Values("fp8", "nvfp4", "nvfp4_sweep", "nvfp4_four_over_six",
                                           "w4a16_nvfp4", "mamba_moe_nvfp4_conservative", "widest"),
                         [](const auto& info) { return info.param; });

float scalar(const Arrived& arrived, const std::string& name) {
  float value = 0;
  std::memcpy(&value, arrived.tensors.at(name).data(), sizeof(value));
  return value;
}

TEST(QuantizeModel, QueriesKeysAndValuesShareOneScale) {
  const Arrived arrived = Setting(recipe_of("nvfp4", "none")).arrived();
  const std::string attention = "backbone.layers.2.mixer.";
  const float shared = scalar(arrived, attention + "q_proj.weight_scale_2");
  EXPECT_EQ(scalar(arrived, attention + "k_proj.weight_scale_2"), shared);
  EXPECT_EQ(scalar(arrived, attention + "v_proj.weight_scale_2"), shared);
  EXPECT_NE(scalar(arrived, attention + "o_proj.weight_scale_2"), shared);
}

TEST(QuantizeModel, QueriesKeysAndValuesKeepTheirOwnInFp8) {
  const Arrived arrived = Setting(recipe_of("fp8", "none")).arrived();
  const std::string attention = "backbone.layers.2.mixer.";
  EXPECT_NE(scalar(arrived, attention + "q_proj.weight_scale"),
            scalar(arrived, attention + "k_proj.weight_scale"));
}

// The largest inputs, seen by a network that is loaded as a whole.
struct Maxima : model::SiteHook {
  void on_input(const model::Module& linear, ConstAnyMatrixView x) override {
    raise(inputs[linear.name], x);
    if (linear.expert >= 0) raise(inputs[linear.expert_group], x);
  }
  void on_kv(const model::AttentionSite&, ConstAnyMatrixView k, ConstAnyMatrixView v) override {
    raise(kv.first, k);
    raise(kv.second, v);
  }
  void on_routing(int, std::span<const int64_t> counts) override {
    tokens.emplace_back(counts.begin(), counts.end());
  }
  static void raise(float& amax, ConstAnyMatrixView seen) {
    const ConstMatrixView x = seen.host();
    for (int64_t row = 0; row < x.rows; ++row) {
      for (float value : x.row(row)) amax = std::max(amax, std::abs(value));
    }
  }
  std::map<std::string, float> inputs;
  std::pair<float, float> kv;
  std::vector<std::vector<int64_t>> tokens;  // [MoE layer][expert]
};

// The two runs cut the text differently, which may move the last bits of an activation.
void expect_same_amax(float actual, float expected, const std::string& what) {
  EXPECT_NEAR(actual, expected, 2e-4 * expected) << what;
}

TEST(QuantizeModel, StoresObservedMaxima) {
  const Setting setting(widest_recipe());
  Maxima maxima;
  model::Network network(setting.model, *setting.stored.weights, 2);
  std::vector<int32_t> ids = setting.windows[0];
  ids.insert(ids.end(), setting.windows[1].begin(), setting.windows[1].end());
  const std::vector<int64_t> n_tokens = {75, 75};
  network.forward(ids, n_tokens, &maxima);

  Arrived arrived;
  RecordingSink sink(arrived);
  const QuantizeReport report = setting.run(sink);
  size_t n_inputs = 0;
  for (const quant::SitePlan& site : setting.plan.sites) {
    if (site.input_format == nullptr) continue;
    ++n_inputs;
    const model::Module& module = *site.module;
    const std::string& group = module.expert >= 0 ? module.expert_group : module.name;
    expect_same_amax(arrived.input_amax.at(module.name), maxima.inputs.at(group), module.name);
  }
  EXPECT_EQ(arrived.input_amax.size(), n_inputs);
  EXPECT_TRUE(arrived.input_amax.contains("lm_head"));
  const auto [k, v] = arrived.kv_amax.at("backbone.layers.2.mixer");
  expect_same_amax(k, maxima.kv.first, "keys");
  expect_same_amax(v, maxima.kv.second, "values");

  ASSERT_EQ(report.layers.size(), 7u);
  EXPECT_EQ(report.layers[1].expert_tokens, maxima.tokens[0]);
  EXPECT_EQ(report.layers[3].expert_tokens, maxima.tokens[1]);
  EXPECT_EQ(report.layers[2].kv[0].k.amax, k);
  EXPECT_EQ(report.layers.back().layer, -1);
  EXPECT_EQ(report.passed_through, std::vector<std::string>{kMtp});
}

// Every token visits every expert for statistics, and each expert then keeps its own.
TEST(QuantizeModel, AllExpertsSeeAllTokensOnRequest) {
  const Setting setting(recipe_of("nvfp4", "none"));
  const Arrived shared = setting.arrived();
  const Arrived own = setting.arrived(/*all_experts_ratio=*/1);
  std::set<float> shared_amax, own_amax;
  for (int expert = 0; expert < 8; ++expert) {
    const std::string name =
        "backbone.layers.1.mixer.experts." + std::to_string(expert) + ".down_proj";
    shared_amax.insert(shared.input_amax.at(name));
    own_amax.insert(own.input_amax.at(name));
  }
  EXPECT_EQ(shared_amax.size(), 1u);
  EXPECT_EQ(own_amax.size(), 8u);
  EXPECT_EQ(shared.tensors, own.tensors);
}

TEST(QuantizeModel, CastCachesHaveNoScales) {
  EXPECT_TRUE(Setting(recipe_of("nvfp4", "fp8_cast")).arrived().kv_amax.empty());
  EXPECT_EQ(Setting(recipe_of("w4a16_nvfp4", "fp8")).arrived().kv_amax.size(), 1u);
}

Variant::Change at(const std::string& tensor, size_t index, uint16_t value) {
  return [=](const std::string& name, std::span<uint16_t> bf16) {
    if (name == tensor) bf16[index] = value;
  };
}

TEST(QuantizeModel, NonFiniteWeightsAreNamed) {
  struct Case {
    std::string tensor;
    size_t index;
    uint16_t value;
  };
  for (const Case& bad :
       {Case{kInProj, 77, kBf16Nan}, Case{kInProj, 0, 0x7F80}, Case{kNorm, 63, 0xFF80},
        Case{"backbone.layers.2.mixer.v_proj.weight", 5, kBf16Nan}}) {
    const Setting setting(recipe_of("w4a16_nvfp4", "none"), true,
                          at(bad.tensor, bad.index, bad.value));
    const Error error = error_of([&] { setting.arrived(); });
    EXPECT_EQ(error.kind(), ErrorKind::kCorrupt);
    EXPECT_EQ(error.message(), setting.variant.file().string() + ": tensor " + bad.tensor +
                                   ": the value at index " + std::to_string(bad.index) +
                                   " is not finite, expected every weight to be finite");
  }
}

TEST(QuantizeModel, WhatTheNetworkDoesNotKnowPassesUnseen) {
  const Setting setting(recipe_of("w4a16_nvfp4", "none"), true, at(kMtp, 3, kBf16Nan));
  Arrived arrived;
  RecordingSink sink(arrived);
  EXPECT_EQ(setting.run(sink).passed_through, std::vector<std::string>{kMtp});
  EXPECT_EQ(arrived.tensors.at(kMtp), bytes_of(setting.stored.checkpoint->tensor(kMtp)));
}

const ModuleReport* find(const QuantizeReport& report, const std::string& module) {
  for (const LayerReport& layer : report.layers) {
    for (const ModuleReport& found : layer.modules) {
      if (found.name == module) return &found;
    }
  }
  return nullptr;
}

TEST(QuantizeModel, AnAllZeroWeightHasTheScaleOneAndIsReported) {
  const std::string module = "backbone.layers.4.mixer.up_proj";
  for (const char* recipe : {"fp8", "nvfp4", "nvfp4_four_over_six"}) {
    const Setting setting(recipe_of(recipe, "none"), true,
                          [&](const std::string& name, std::span<uint16_t> bf16) {
                            if (name == module + ".weight") std::ranges::fill(bf16, 0);
                          });
    Arrived arrived;
    RecordingSink sink(arrived);
    const QuantizeReport report = setting.run(sink);
    const std::string_view scale = setting.site(module).weight_format->planes.back().suffix;
    // The reciprocal that the CUDA arithmetic multiplies by may round: one unit in the last place.
    EXPECT_FLOAT_EQ(scalar(arrived, module + "." + std::string(scale)), 1) << recipe;
    EXPECT_TRUE(find(report, module)->is_all_zero);
    EXPECT_FALSE(find(report, "backbone.layers.4.mixer.down_proj")->is_all_zero);
  }
}

TEST(QuantizeModel, AWeightOnlyJobRunsNoLayer) {
  const Setting setting(recipe_of("nvfp4", "none"), /*weight_only=*/true);
  EXPECT_FALSE(setting.arrived().tensors.empty());
  EXPECT_EQ(setting.model.n_loaded, 0);
}

// A job that was killed and goes on: what arrived in all runs together, and what the last one
// wrote.
class ResumedJob : public ::testing::Test {
 protected:
  // Runs until the sink fails at call number `fails_at`, if ever.
  std::optional<QuantizeReport> run(const Setting& setting, Arrived& arrived, int fails_at) {
    RecordingSink sink(arrived, fails_at);
    io::Journal journal(directory_ / "journal");
    std::optional<QuantizeReport> report;
    try {
      report = setting.run(sink, &journal);
    } catch (const Error& error) {
      EXPECT_EQ(error.message(), "disk full");
    }
    written_ = sink.written();
    unsynced_ = sink.unsynced();
    n_calls_ = sink.n_calls();
    return report;
  }

  // Kills a run at call `fails_at`, goes on, and compares with a run that nothing disturbed.
  void expect_resumable(const Setting& setting, int fails_at, const Arrived& whole,
                        const io::Json& whole_report) {
    SCOPED_TRACE("killed at call " + std::to_string(fails_at));
    Arrived arrived;
    EXPECT_FALSE(run(setting, arrived, fails_at).has_value());
    const std::set<std::string> lost = unsynced_;
    std::set<std::string> durable = written_;
    for (const std::string& name : lost) durable.erase(name);

    const std::optional<QuantizeReport> report = run(setting, arrived, -1);
    ASSERT_TRUE(report.has_value());
    EXPECT_EQ(arrived, whole);
    EXPECT_EQ(to_json(*report), whole_report);
    for (const std::string& name : written_) {
      EXPECT_FALSE(durable.contains(name)) << name << " was finished and is written again";
    }
    for (const std::string& name : lost) {
      EXPECT_TRUE(written_.contains(name)) << name << " was not durable and is not written again";
    }
    std::filesystem::remove(directory_ / "journal");
  }

  const TemporaryDirectory directory_;
  std::set<std::string> written_, unsynced_;
  int n_calls_ = 0;
};

// Every seventh call falls into each layer's weights, syncs and amax over the course of the job.
TEST_F(ResumedJob, EqualsAnUninterruptedOne) {
  const Setting setting(widest_recipe());
  Arrived whole;
  const std::optional<QuantizeReport> report = run(setting, whole, -1);
  std::filesystem::remove(directory_ / "journal");
  const io::Json whole_report = to_json(*report);
  const int n_calls = n_calls_;
  for (int fails_at = 0; fails_at < n_calls - 2; fails_at += 7) {
    expect_resumable(setting, fails_at, whole, whole_report);
  }
}

// Killed at the very end, in finish(): the passed-through tensor alone is copied again, and no
// layer runs.
TEST_F(ResumedJob, WithAllLayersFinishedRunsNone) {
  const Setting setting(widest_recipe());
  Arrived arrived;
  run(setting, arrived, -1);
  setting.model.n_loaded = 0;
  const std::optional<QuantizeReport> report = run(setting, arrived, -1);
  EXPECT_TRUE(report.has_value());
  EXPECT_EQ(written_, std::set<std::string>{kMtp});
  EXPECT_EQ(setting.model.n_loaded, 0);
}

// With the head's input left alone, the tensors outside the stack need no activations.
TEST_F(ResumedJob, OnlyWhatNeedsActivationsRunsLayers) {
  const Setting setting(recipe_of("nvfp4", "none"));
  Arrived arrived;
  run(setting, arrived, -1);
  // The calls of the last run end with: embedding, final norm, head, sync, the MTP tensor, finish.
  const int at_embedding = n_calls_ - 6;
  std::filesystem::remove(directory_ / "journal");
  run(setting, arrived, at_embedding);
  setting.model.n_loaded = 0;
  run(setting, arrived, -1);
  EXPECT_EQ(setting.model.n_loaded, 0);
  EXPECT_EQ(written_, (std::set<std::string>{"backbone.embeddings.weight", "backbone.norm_f.weight",
                                             "lm_head.weight", kMtp}));
}

}  // namespace
}  // namespace vernier::calib
