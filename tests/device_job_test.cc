// The main job on a device against the same job on the host.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "base/file.h"
#include "io/checkpoint.h"
#include "io/json.h"
#include "program.h"
#include "tensor/device.h"

namespace vernier::tests {
namespace {

namespace fs = std::filesystem;
using ::testing::EndsWith;

const Arguments kHost = {"--device", "cpu"};
const Arguments kFloat32 = {"--device", "cuda", "--compute-dtype", "float32"};
const Arguments kBfloat16 = {"--device", "cuda"};

class DeviceJob : public ::testing::Test {
 protected:
  void SetUp() override {
    if (n_devices() == 0) GTEST_SKIP() << "no CUDA device";
  }
  Outcome succeed(const Arguments& args) const {
    const Outcome outcome = run(args, scratch_.path());
    EXPECT_EQ(outcome.status, 0) << outcome.out << outcome.err;
    return outcome;
  }
  void quantize(const std::string& recipe, const std::string& out, const Arguments& more) const {
    succeed(Arguments{"quantize", "--hf-model-id", tiny_model().string(), "--recipe", recipe,
                      "--calib-size", "8", "--skip-generate", "--export-dir", out} +
            more);
  }
  io::Json evaluate(const Arguments& args) const {
    succeed(Arguments{"evaluate", "--json", "result.json"} + args);
    return io::read_json(scratch_.path() / "result.json")["results"];
  }
  fs::path path(const std::string& name) const { return scratch_.path() / name; }

  const ScratchDirectory scratch_;
};

class EveryRecipe : public DeviceJob, public ::testing::WithParamInterface<std::string> {};

TEST_P(EveryRecipe, WeightOnlyFilesAreTheHosts) {
  for (const char* arithmetic : {"cuda", "cpu"}) {
    // A calibrated cache would need activations.
    const Arguments more = {"--weight-only", "--kv-cache-format", "none", "--export-arithmetic",
                            arithmetic};
    const std::string name = std::string("-") + arithmetic;
    quantize(GetParam(), "host" + name, more + kHost);
    quantize(GetParam(), "device" + name, more + kBfloat16);
    expect_same_files(path("host" + name), path("device" + name));
  }
}

INSTANTIATE_TEST_SUITE_P(Recipes, EveryRecipe,
                         ::testing::Values("fp8", "nvfp4", "nvfp4_sweep", "nvfp4_four_over_six",
                                           "nemotron_3_super_nvfp4", "w4a16_nvfp4"),
                         [](const auto& info) { return info.param; });

// Weights do not depend on activations at all. Input scales do, whose products are summed in
// another order: a maximum moves by rounding, or where a router's near-tie goes to another expert.
TEST_F(DeviceJob, CalibratedWeightsAreTheHostsAndInputScalesAreClose) {
  quantize("nvfp4", "host", kHost);
  quantize("nvfp4", "float32", kFloat32);
  quantize("nvfp4", "bfloat16", kBfloat16);
  const io::Checkpoint host(path("host"));
  for (const auto& [name, bound] :
       std::map<std::string, double>{{"float32", 1e-3}, {"bfloat16", 0.1}}) {
    const io::Checkpoint device(path(name));
    ASSERT_EQ(host.names(), device.names());
    for (const std::string& tensor : host.names()) {
      const TensorView expected = host.tensor(tensor);
      const TensorView found = device.tensor(tensor);
      if (tensor.ends_with("input_scale")) {
        EXPECT_NEAR(found.as<float>()[0] / expected.as<float>()[0], 1, bound) << tensor;
      } else {
        EXPECT_TRUE(std::ranges::equal(found.bytes(), expected.bytes())) << tensor;
      }
    }
  }
}

TEST_F(DeviceJob, PerplexityIsTheOracles) {
  const io::Json golden = io::read_json(source_dir() / "tests/golden/tiny.json");
  const Arguments args = {"--model",   tiny_model().string(),
                          "--text",    (tiny_model() / "data/evaluation.txt").string(),
                          "--windows", "16"};
  const double host = evaluate(args + kHost)[0]["perplexity"];
  const double float32 = evaluate(args + kFloat32)[0]["perplexity"];
  const double bfloat16 = evaluate(args + kBfloat16)[0]["perplexity"];
  EXPECT_NEAR(float32 / host, 1, 1e-5);
  EXPECT_NEAR(bfloat16 / host, 1, 1e-3);
}

// KL of a quantized model: real FP8 and NVFP4 weights, inputs rounded, an FP8 cache.
TEST_F(DeviceJob, DivergenceOfAQuantizedModelIsTheHosts) {
  quantize("mamba_moe_nvfp4_aggressive", "quantized", kHost + Arguments{"--export-kv-cache-quant"});
  const Arguments args = {"--model",   tiny_model().string(),
                          "--model",   "quantized",
                          "--text",    (tiny_model() / "data/evaluation.txt").string(),
                          "--windows", "16"};
  const double host = evaluate(args + kHost)[1]["kl"];
  EXPECT_NEAR(evaluate(args + kFloat32)[1]["kl"].get<double>() / host, 1, 0.05);
  EXPECT_NEAR(evaluate(args + kBfloat16)[1]["kl"].get<double>() / host, 1, 0.10);
}

TEST_F(DeviceJob, GreedyTextIsTheHosts) {
  const Arguments args = {
      "generate", "--model", tiny_model().string(), "--prompts", "Once upon a time|The old king",
      "--osl",    "32"};
  const auto text = [](const std::string& out) { return out.substr(0, out.find("  (")); };
  EXPECT_EQ(text(succeed(args + kFloat32).out), text(succeed(args + kHost).out));
}

TEST_F(DeviceJob, AKilledJobGoesOnToTheSameBytes) {
  const Arguments args = {"quantize",
                          "--hf-model-id",
                          tiny_model().string(),
                          "--recipe",
                          "nvfp4",
                          "--calib-size",
                          "64",
                          "--skip-generate",
                          "--device",
                          "cuda",
                          "--megatron-save-path"};
  succeed(args + Arguments{"whole"});
  const fs::path journal = path("broken.vernier-staging/journal");
  run_and_kill(args + Arguments{"broken"}, scratch_.path(), [&] {
    std::error_code absent;
    const uintmax_t size = fs::file_size(journal, absent);
    return !absent && size > 3000;
  });
  succeed(args + Arguments{"broken"});
  expect_same_files(path("whole"), path("broken"));
}

TEST_F(DeviceJob, RefusesWithNumbersWhatDoesNotFit) {
  const Outcome outcome =
      run({"quantize", "--hf-model-id", tiny_model().string(), "--recipe", "nvfp4", "--export-dir",
           "out", "--device", "cuda", "--max-device-memory", "10MB"},
          scratch_.path());
  EXPECT_EQ(outcome.status, 3);
  EXPECT_THAT(outcome.err, ::testing::HasSubstr("bytes of device memory, 10000000 are available"));
  EXPECT_FALSE(fs::exists(path("out")));
}

}  // namespace
}  // namespace vernier::tests
