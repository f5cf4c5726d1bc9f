// The whole job through the program: quantize, generate, export, evaluate, inspect; killed and
// continued.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/file.h"
#include "io/checkpoint.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "program.h"

namespace vernier::tests {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// A calibrated job on the bundled model, short enough for a test.
Arguments quantize_tiny() {
  return {"quantize",
          "--hf-model-id",
          tiny_model().string(),
          "--export-quant-cfg",
          "mamba_moe_nvfp4_aggressive",
          "--export-kv-cache-quant",
          "--calib-size",
          "4",
          "--skip-generate"};
}

TEST(Job, AShardedCheckpointExportsToTheBytesOfADirectExport) {
  const ScratchDirectory scratch;
  expect_success(
      run(quantize_tiny() + Arguments{"--megatron-save-path", "sharded", "--export-dir", "direct"},
          scratch.path()));
  expect_success(run({"export", "--megatron-load-path", "sharded", "--export-dir", "exported"},
                     scratch.path()));
  expect_same_files(scratch.path() / "direct", scratch.path() / "exported");
  expect_success(run({"inspect", "exported", "--verify"}, scratch.path()));
}

TEST(Job, SmallShardsHoldTheSameTensors) {
  const ScratchDirectory scratch;
  const Arguments args = {"quantize", "--hf-model-id", tiny_model().string(),
                          "--recipe", "w4a16_nvfp4",   "--skip-generate"};
  expect_success(run(args + Arguments{"--export-dir", "one"}, scratch.path()));
  expect_success(
      run(args + Arguments{"--export-dir", "many", "--max-shard-size", "1MB"}, scratch.path()));
  const io::Checkpoint one(scratch.path() / "one");
  const io::Checkpoint many(scratch.path() / "many");
  EXPECT_EQ(one.files().size(), 1u);
  EXPECT_GT(many.files().size(), 4u);
  ASSERT_EQ(one.names(), many.names());
  for (const std::string& name : one.names()) {
    const auto left = one.tensor(name).bytes();
    const auto right = many.tensor(name).bytes();
    EXPECT_TRUE(std::equal(left.begin(), left.end(), right.begin(), right.end())) << name;
  }
  expect_success(run({"inspect", "many", "--verify"}, scratch.path()));
}

TEST(Job, KilledAnywhereAndRunAgainItGivesTheSameBytes) {
  const ScratchDirectory scratch;
  const Arguments args = quantize_tiny() + Arguments{"--megatron-save-path"};
  expect_same_when_killed(args, scratch.path(), {1, 3000, 20000, 60000});
}

TEST(Job, StagingOfAnotherJobIsKeptUntilRestart) {
  const ScratchDirectory scratch;
  const Arguments args = quantize_tiny() + Arguments{"--export-dir", "out"};
  const fs::path journal = scratch.path() / "out.vernier-staging" / "journal";
  ASSERT_TRUE(run_and_kill(args, scratch.path(), [&] {
    std::error_code absent;
    const uintmax_t size = fs::file_size(journal, absent);
    return !absent && size > 0;
  }));
  const Arguments other = args + Arguments{"--weight-only"};
  const Outcome refused = run(other, scratch.path());
  EXPECT_EQ(refused.status, 2);
  EXPECT_THAT(refused.err, HasSubstr("--restart"));
  EXPECT_TRUE(fs::exists(journal));
  expect_success(run(other + Arguments{"--restart"}, scratch.path()));
}

TEST(Job, WithoutOutputFlagsTheShardedCheckpointHasItsDefaultName) {
  const ScratchDirectory scratch;
  expect_success(run({"quantize", "--hf-model-id", tiny_model().string(), "--export-quant-cfg",
                      "w4a16_nvfp4", "--skip-generate"},
                     scratch.path()));
  EXPECT_TRUE(fs::exists(scratch.path() / "tiny_quantized_w4a16_nvfp4" / "vernier.json"));
}

TEST(Job, PlanPrintsAndWritesNothing) {
  const ScratchDirectory scratch;
  const Outcome outcome =
      run(quantize_tiny() + Arguments{"--export-dir", "out", "--plan"}, scratch.path());
  expect_success(outcome);
  EXPECT_THAT(outcome.out, HasSubstr("bits per weight"));
  EXPECT_TRUE(fs::is_empty(scratch.path()));
}

TEST(Job, AModelIdIsFoundInTheLocalCache) {
  const ScratchDirectory scratch;
  const fs::path repository = scratch.path() / "hub/models--org--tiny";
  fs::create_directories(repository / "refs");
  fs::create_directories(repository / "snapshots");
  write_file(repository / "refs/main", "0123abcd");
  fs::create_symlink(tiny_model(), repository / "snapshots/0123abcd");
  ::setenv("HF_HUB_CACHE", (scratch.path() / "hub").c_str(), 1);
  const Outcome outcome =
      run({"quantize", "--hf-model-id", "org/tiny", "--recipe", "w4a16_nvfp4", "--skip-generate"},
          scratch.path());
  ::unsetenv("HF_HUB_CACHE");
  expect_success(outcome);
  EXPECT_TRUE(fs::exists(scratch.path() / "tiny_quantized_w4a16_nvfp4"));
}

// A copy of the latent checkpoint with two tensors of a multi-token prediction layer added.
void add_mtp(const fs::path& directory) {
  copy_checkpoint(golden_checkpoint("latent"), directory);
  const fs::path path = directory / "model.safetensors";
  fs::rename(path, directory / "old");
  const io::SafetensorsFile old(directory / "old");
  std::vector<io::TensorDecl> tensors = {{"mtp.layers.0.enorm.weight", DType::kBF16, {64}},
                                         {"mtp.layers.0.eh_proj.weight", DType::kBF16, {64, 128}}};
  for (const io::TensorEntry& entry : old.header().entries) {
    tensors.push_back({entry.name, entry.dtype, entry.shape});
  }
  io::SafetensorsWriter writer(path, tensors);
  for (const io::TensorEntry& entry : old.header().entries) {
    writer.write(entry.name, old.view(entry).bytes());
  }
  const std::vector<std::byte> bytes(64 * 128 * 2, std::byte{0x3C});
  writer.write("mtp.layers.0.enorm.weight", std::span(bytes).first(128));
  writer.write("mtp.layers.0.eh_proj.weight", bytes);
  writer.finish();
  fs::remove(directory / "old");
}

TEST(Job, MultiTokenPredictionLayersPassThroughUntouched) {
  const ScratchDirectory scratch;
  add_mtp(scratch.path() / "model");
  expect_success(run({"quantize", "--hf-model-id", "model", "--recipe", "w4a16_nvfp4",
                      "--skip-generate", "--export-dir", "out"},
                     scratch.path()));
  const io::Checkpoint out(scratch.path() / "out");
  const TensorView mtp = out.tensor("mtp.layers.0.eh_proj.weight");
  EXPECT_EQ(mtp.dtype, DType::kBF16);
  EXPECT_EQ(mtp.shape, (Shape{64, 128}));
  EXPECT_TRUE(std::all_of(mtp.bytes().begin(), mtp.bytes().end(),
                          [](std::byte byte) { return byte == std::byte{0x3C}; }));
  const io::Json config = io::read_json(scratch.path() / "out/hf_quant_config.json");
  const std::vector<std::string> excluded = config["quantization"]["exclude_modules"];
  EXPECT_THAT(excluded, ::testing::Contains("mtp*"));
  expect_success(run({"inspect", "out", "--verify"}, scratch.path()));
}

TEST(Job, TheSsmCacheDtypeReachesTheExportedConfig) {
  const ScratchDirectory scratch;
  expect_success(run(
      {"quantize", "--hf-model-id", golden_checkpoint("latent").string(), "--recipe", "w4a16_nvfp4",
       "--skip-generate", "--export-dir", "out", "--mamba-ssm-cache-dtype", "float16"},
      scratch.path()));
  EXPECT_EQ(io::read_json(scratch.path() / "out/config.json")["mamba_ssm_cache_dtype"], "float16");
}

TEST(Job, GreedyTextOfTheBundledModelIsTheOraclesText) {
  const ScratchDirectory scratch;
  const io::Json golden = io::read_json(source_dir() / "tests/golden/tiny.json");
  const std::string prompt = golden["generations"][0]["prompt"];
  const Outcome outcome =
      run({"generate", "--model", tiny_model().string(), "--prompts", prompt, "--osl", "16"},
          scratch.path());
  expect_success(outcome);
  EXPECT_THAT(outcome.out, HasSubstr("> " + prompt + ", there was"));
}

TEST(Job, ShardedAndExportedGenerateTheSameText) {
  const ScratchDirectory scratch;
  expect_success(
      run(quantize_tiny() + Arguments{"--megatron-save-path", "sharded", "--export-dir", "direct"},
          scratch.path()));
  const auto text = [&](const char* flag, const char* directory) {
    const Outcome outcome = run({"generate", flag, directory, "--prompts", "The old king", "--osl",
                                 "24", "--temperature", "0.8", "--seed", "7"},
                                scratch.path());
    expect_success(outcome);
    return outcome.out.substr(0, outcome.out.find("  ("));
  };
  EXPECT_EQ(text("--megatron-load-path", "sharded"), text("--model", "direct"));
}

TEST(Job, EvaluateDumpsTheGoldenLogits) {
  const ScratchDirectory scratch;
  const io::SafetensorsFile golden(source_dir() / "tests/golden/latent/golden.safetensors");
  TensorView ids, logits;
  for (const io::TensorEntry& entry : golden.header().entries) {
    if (entry.name == "input_ids") ids = golden.view(entry);
    if (entry.name == "logits") logits = golden.view(entry);
  }
  io::Json rows = io::Json::array();
  for (int64_t row = 0; row < ids.shape[0]; ++row) {
    const auto values = ids.as<int32_t>().subspan(row * ids.shape[1], ids.shape[1]);
    rows.push_back(std::vector<int32_t>(values.begin(), values.end()));
  }
  write_file(scratch.path() / "ids.json", rows.dump());
  expect_success(run({"evaluate", "--model", golden_checkpoint("latent").string(), "--token-ids",
                      "ids.json", "--dump-logits", "logits.safetensors", "--json", "result.json"},
                     scratch.path()));

  const io::SafetensorsFile dumped(scratch.path() / "logits.safetensors");
  const TensorView found = dumped.view(dumped.header().entries.at(0));
  ASSERT_EQ(found.shape, logits.shape);
  const auto found_values = found.as<float>();
  const auto golden_values = logits.as<float>();
  for (size_t index = 0; index < golden_values.size(); ++index) {
    const float bound = 1e-3f + 2e-4f * std::abs(golden_values[index]);
    ASSERT_NEAR(found_values[index], golden_values[index], bound) << index;
  }
  const io::Json result = io::read_json(scratch.path() / "result.json")["results"][0];
  for (const char* key : {"model", "perplexity", "mean_nll", "kl", "top1_agreement",
                          "bits_per_weight", "size_bytes"}) {
    EXPECT_TRUE(result.contains(key)) << key;
  }
}

TEST(Job, VerifyNamesWhatIsWrongAndExitsWithOne) {
  const ScratchDirectory scratch;
  expect_success(run({"quantize", "--hf-model-id", golden_checkpoint("latent").string(), "--recipe",
                      "w4a16_nvfp4", "--skip-generate", "--export-dir", "out"},
                     scratch.path()));
  fs::remove(scratch.path() / "out/hf_quant_config.json");
  const Outcome outcome = run({"inspect", "out", "--verify"}, scratch.path());
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.out, HasSubstr("hf_quant_config.json"));
}

}  // namespace
}  // namespace vernier::tests
