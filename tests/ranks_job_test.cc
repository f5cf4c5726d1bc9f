// The whole job on several ranks, as mpirun starts them, or in a build without MPI torchrun: the
// files of one rank, one message for one error, and an end for all when one is killed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "base/file.h"
#include "io/checkpoint.h"
#include "io/json.h"
#include "program.h"

namespace vernier::tests {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

struct Ranks {
  int n;
  Arguments flags;
};

class RanksJob : public ::testing::Test {
 protected:
  Outcome on_one(const Arguments& args) const { return run(args, scratch_.path()); }
  Outcome on(const Ranks& ranks, const Arguments& args) const {
    return run_ranks(ranks.n, args + ranks.flags, scratch_.path());
  }
  fs::path path(const std::string& name) const { return scratch_.path() / name; }

  const ScratchDirectory scratch_;
};

Arguments quantize(const std::string& recipe) {
  return {"quantize", "--hf-model-id", tiny_model().string(), "--export-quant-cfg", recipe};
}
Arguments quickly(Arguments args) {
  return args + Arguments{"--calib-size", "4", "--skip-generate"};
}

// Names of the tensors in which two checkpoints differ.
std::vector<std::string> differing_tensors(const fs::path& left, const fs::path& right) {
  const io::Checkpoint a(left), b(right);
  EXPECT_EQ(a.names(), b.names());
  std::vector<std::string> differing;
  for (const std::string& name : a.names()) {
    const auto one = a.tensor(name).bytes(), other = b.tensor(name).bytes();
    if (!std::equal(one.begin(), one.end(), other.begin(), other.end())) differing.push_back(name);
  }
  return differing;
}

const Ranks kEight{8, {"--tp", "2", "--pp", "2", "--ep", "4"}};
const Ranks kThree{3, {"--pp", "3"}};
const Ranks kFour{4, {"--tp", "4", "--ep", "4"}};

TEST_F(RanksJob, WeightsAloneGiveTheFilesOfOneRank) {
  const Arguments args = quantize("w4a16_nvfp4") + Arguments{"--skip-generate"};
  expect_success(on_one(args + Arguments{"--export-dir", "one"}));
  for (const Ranks& ranks : {kEight, kThree, kFour}) {
    const std::string name = "on" + std::to_string(ranks.n);
    expect_success(on(ranks, args + Arguments{"--export-dir", name}));
    expect_same_files(path("one"), path(name));
  }
}

TEST_F(RanksJob, RunsAsTorchrunStartsItInEveryBuild) {
  const Arguments args = quantize("w4a16_nvfp4") + Arguments{"--skip-generate"};
  expect_success(on_one(args + Arguments{"--export-dir", "one"}));
  const Outcome outcome =
      run_ranks(4, args + Arguments{"--tp", "2", "--pp", "2", "--export-dir", "four"},
                scratch_.path(), Launcher::kTorchrun);
  expect_success(outcome);
  EXPECT_THAT(outcome.out, HasSubstr("4 ranks: tp 2, pp 2, ep 1, dp 1"));
  expect_same_files(path("one"), path("four"));
}

// A wrong launch never takes itself for one process.
TEST_F(RanksJob, RefusesAnEnvironmentThatIsHalfTorchruns) {
  ::setenv("RANK", "0", 1);
  const Outcome outcome = on_one({"recipes"});
  ::unsetenv("RANK");
  EXPECT_EQ(outcome.status, 3);
  EXPECT_EQ(outcome.err,
            "vernier: the environment variable WORLD_SIZE is not set, expected the number of "
            "processes that torchrun started\n");
}

TEST_F(RanksJob, CalibrationDiffersInScalesOfInputsAlone) {
  const Arguments args = quickly(quantize("mamba_moe_nvfp4_aggressive"));
  expect_success(on_one(args + Arguments{"--export-dir", "one", "--report", "one.json"}));
  const Outcome outcome =
      on(kEight, args + Arguments{"--export-dir", "eight", "--report", "eight.json"});
  expect_success(outcome);
  EXPECT_THAT(outcome.out, HasSubstr("8 ranks: tp 2, pp 2, ep 4, dp 2"));
  for (const std::string& name : differing_tensors(path("one"), path("eight"))) {
    EXPECT_TRUE(name.ends_with("input_scale")) << name;
    const float one = io::Checkpoint(path("one")).tensor(name).as<float>()[0];
    const float eight = io::Checkpoint(path("eight")).tensor(name).as<float>()[0];
    EXPECT_NEAR(eight, one, 1e-5 * one) << name;
  }
  // As many tokens for each expert: none was routed otherwise.
  const io::Json one = io::read_json(path("one.json")), eight = io::read_json(path("eight.json"));
  ASSERT_EQ(one["layers"].size(), eight["layers"].size());
  for (size_t layer = 0; layer < one["layers"].size(); ++layer) {
    EXPECT_EQ(one["layers"][layer]["expert_tokens"], eight["layers"][layer]["expert_tokens"]);
  }
}

TEST_F(RanksJob, GeneratesTheTextOfOneRank) {
  const Arguments args = {
      "generate", "--model", tiny_model().string(), "--prompts", "Once upon a time|The old king",
      "--osl",    "16"};
  const auto text_of = [](const Outcome& outcome) {
    expect_success(outcome);
    std::string text;  // without the rates
    for (size_t at = outcome.out.find("> "); at != std::string::npos;
         at = outcome.out.find("> ", at + 1)) {
      text += outcome.out.substr(at, outcome.out.find("\n  (", at) - at);
    }
    return text;
  };
  const std::string expected = text_of(on_one(args));
  EXPECT_THAT(expected, HasSubstr("> The old king"));
  for (const Ranks& ranks : {kEight, kThree, kFour}) EXPECT_EQ(text_of(on(ranks, args)), expected);
}

TEST_F(RanksJob, EvaluatesAsOneRankDoes) {
  const Arguments args = {"evaluate",
                          "--model",
                          tiny_model().string(),
                          "--text",
                          (tiny_model() / "data/evaluation.txt").string(),
                          "--windows",
                          "4"};
  expect_success(on_one(args + Arguments{"--json", "one.json"}));
  expect_success(on(kEight, args + Arguments{"--json", "eight.json"}));
  const auto nll = [&](const std::string& name) {
    return io::read_json(path(name))["results"][0]["mean_nll"].get<double>();
  };
  EXPECT_NEAR(nll("eight.json"), nll("one.json"), 1e-5);
}

TEST_F(RanksJob, SearchesAsOneRankDoes) {
  const Arguments args = {"search",
                          "--hf-model-id",
                          tiny_model().string(),
                          "--calib-size",
                          "4",
                          "--auto-quantize-bits",
                          "5.5",
                          "--validation-size",
                          "2"};
  expect_success(on_one(args + Arguments{"--output-dir", "one"}));
  expect_success(on({2, {}}, args + Arguments{"--output-dir", "two"}));
  EXPECT_EQ(read_file(path("two") / "recipe_5.5_bits.yaml"),
            read_file(path("one") / "recipe_5.5_bits.yaml"));
}

// All ranks find the same fault; one says so.
TEST_F(RanksJob, SaysOnceWhatAllFound) {
  const auto expect_refused = [&](const Ranks& ranks, const Arguments& args,
                                  const std::string& sentence) {
    const Outcome outcome = on(ranks, args);
    EXPECT_EQ(outcome.status, 2);
    const size_t at = outcome.err.find(sentence);
    ASSERT_NE(at, std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find(sentence, at + 1), std::string::npos) << outcome.err;
  };
  const Arguments args = quickly(quantize("nvfp4")) + Arguments{"--export-dir", "out"};
  expect_refused({2, {"--tp", "3"}}, args, "vernier: --tp is 3, expected at most 2, the number of");
  expect_refused({8, {"--tp", "8"}}, args,
                 "vernier: --tp 8: expected a divisor of the 4 Mamba groups");
  expect_refused({3, {"--ep", "3"}}, args,
                 "vernier: --ep 3: expected a divisor of the 32 routed experts");
  expect_refused({8, {}}, args + Arguments{"--calib-seq-length", "60000"},
                 "samples for 8 replicas of the model, expected one each at least");
  expect_refused({2, {}}, quickly(quantize("no_such_recipe")), "no_such_recipe");
  expect_refused({2, {}}, {"inspect", tiny_model().string()},
                 "vernier: inspect: started on 2 ranks, expected one");
  expect_refused({2, {}}, quantize("nvfp4") + Arguments{"--no-such-flag"}, "--no-such-flag");
  EXPECT_FALSE(fs::exists(path("out")));
}

// Shuffled runs (--gtest_shuffle --gtest_repeat=N) kill other ranks at other moments.
TEST_F(RanksJob, OneKilledEndsAllAndTheNextRunGoesOn) {
  const Arguments args = quickly(quantize("mamba_moe_nvfp4_aggressive"));
  expect_success(on(kFour, args + Arguments{"--export-dir", "whole"}));
  std::mt19937 random(static_cast<uint32_t>(::testing::UnitTest::GetInstance()->random_seed()));
  for (int round = 0; round < 2; ++round) {
    const std::chrono::milliseconds delay(500 + random() % 2000);
    const RanksKilled killed =
        run_ranks_and_kill(kFour.n, args + kFour.flags + Arguments{"--export-dir", "broken"},
                           scratch_.path(), random(), delay);
    if (!killed.is_killed) break;
    EXPECT_NE(killed.outcome.status, 0);
    EXPECT_LT(killed.seconds_to_end, 10);
    EXPECT_EQ(killed.n_left, 0);
    if (fs::exists(path("broken"))) break;  // killed when all was done
  }
  if (!fs::exists(path("broken"))) {
    expect_success(on(kFour, args + Arguments{"--export-dir", "broken"}));
  }
  expect_same_files(path("whole"), path("broken"));
}

}  // namespace
}  // namespace vernier::tests
