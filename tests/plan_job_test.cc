// Plans of layouts as a user asks for them: from a config.json alone, and on the ranks that will
// run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "io/json.h"
#include "program.h"

namespace vernier::tests {
namespace {

namespace fs = std::filesystem;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class PlanJob : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory(scratch_.path() / "model");
    fs::copy_file(golden_checkpoint("latent") / "config.json",
                  scratch_.path() / "model/config.json");
  }
  Outcome plan(const Arguments& more) const {
    return run(Arguments{"plan", "--hf-model-id", "model", "--gpus", "4"} + more, scratch_.path());
  }

  const ScratchDirectory scratch_;
};

TEST_F(PlanJob, ListsLayoutsAndTheCommandOfTheQuickest) {
  const Outcome outcome = plan({"--json", "plan.json"});
  expect_success(outcome);
  EXPECT_THAT(outcome.out,
              StartsWith("4 GPUs of 80 GB, 8 a node; 512 sequences of 4096 tokens: 11 of 11 "
                         "layouts fit\n"));
  EXPECT_THAT(outcome.out, HasSubstr("next: mpirun -np 4 vernier quantize --tp "));
  EXPECT_THAT(outcome.out,
              EndsWith("--hf-model-id model --calib-size 512 --calib-seq-length 4096\n"));
  const io::Json json = io::read_json(scratch_.path() / "plan.json");
  ASSERT_EQ(json["layouts"].size(), 11u);
  double before = 0;
  for (const io::Json& layout : json["layouts"]) {
    EXPECT_EQ(layout["tp"].get<int>() * layout["pp"].get<int>() * layout["dp"].get<int>(), 4);
    EXPECT_GE(layout["seconds"]["all"].get<double>(), before);
    before = layout["seconds"]["all"].get<double>();
  }
}

TEST_F(PlanJob, TakesRatesFromAFile) {
  write_file(scratch_.path() / "rates.json", R"({"start_s": 1000})");
  const Outcome outcome = plan({"--rates", "rates.json"});
  expect_success(outcome);
  EXPECT_THAT(outcome.out, HasSubstr("with 1000.0 to start"));
}

TEST_F(PlanJob, RefusesInOneSentence) {
  write_file(scratch_.path() / "rates.json", R"({"speed": 1})");
  const struct {
    Arguments args;
    std::string sentence;
  } cases[] = {
      {{"--rates", "rates.json"}, "rates.json: speed is no rate, expected one of: forward_flop"},
      {{"--gpu-memory", "0.001"},
       "--gpu-memory 0.001: nine tenths of it are 900.0 kB a rank, "
       "expected at least "},
      {{"--gpus", "7", "--calib-size", "1"}, "--gpus 7: no layout gives every rank a part of"},
  };
  for (const auto& [args, sentence] : cases) {
    const Outcome outcome =
        run(Arguments{"plan", "--hf-model-id", "model"} +
                (args.front() == "--gpus" ? args : args + Arguments{"--gpus", "4"}),
            scratch_.path());
    EXPECT_EQ(outcome.status, 2);
    EXPECT_THAT(outcome.err, StartsWith("vernier: " + sentence));
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  }
}

TEST_F(PlanJob, RanksPlanTheirOwnLayout) {
  const Outcome outcome =
      run_ranks(2,
                {"quantize", "--hf-model-id", tiny_model().string(), "--export-quant-cfg",
                 "mamba_moe_nvfp4_aggressive", "--calib-size", "4", "--plan", "--tp", "2"},
                scratch_.path());
  expect_success(outcome);
  EXPECT_THAT(outcome.out, HasSubstr("      a rank: device memory "));
  EXPECT_THAT(outcome.out, HasSubstr("      over its wire: tensor sums "));
}

}  // namespace
}  // namespace vernier::tests
