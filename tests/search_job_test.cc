// The search through the program: scores, recipes and reports; killed and continued; chosen again;
// applied by quantize; what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "io/json.h"
#include "program.h"

namespace vernier::tests {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// On the bundled model, short enough for a test.
Arguments search_tiny(const std::string& trials = "2") {
  return {"search",
          "--hf-model-id",
          tiny_model().string(),
          "--calib-size",
          "4",
          "--calib-seq-length",
          "64",
          "--candidates",
          "nvfp4,nvfp4_sweep,fp8,bf16",
          "--validation-size",
          "2",
          "--refine-trials",
          trials,
          "--auto-quantize-bits",
          "4.75,6"};
}

TEST(SearchJob, WritesScoresRecipesAndReports) {
  const ScratchDirectory scratch;
  expect_success(run(search_tiny() + Arguments{"--output-dir", "found"}, scratch.path()));
  const fs::path found = scratch.path() / "found";
  for (const char* file : {"scores.json", "report.json", "report.html", "recipe_4.75_bits.yaml",
                           "recipe_6_bits.yaml"}) {
    EXPECT_TRUE(fs::exists(found / file)) << file;
  }
  const io::Json report = io::read_json(found / "report.json");
  ASSERT_EQ(report.at("allocations").size(), 2u);
  const io::Json& small = report.at("allocations")[0];
  const io::Json& large = report.at("allocations")[1];
  EXPECT_LE(small.at("bits"), 4.75);
  EXPECT_LE(large.at("bits"), 6.0);
  EXPECT_GT(small.at("predicted_kl"), large.at("predicted_kl"));
}

// What the recipe makes has the bits that the search counted.
TEST(SearchJob, ItsRecipeIsApplied) {
  const ScratchDirectory scratch;
  expect_success(run(search_tiny() + Arguments{"--output-dir", "found"}, scratch.path()));
  expect_success(run(
      {"quantize", "--hf-model-id", tiny_model().string(), "--recipe", "found/recipe_6_bits.yaml",
       "--calib-size", "4", "--export-dir", "out", "--skip-generate"},
      scratch.path()));
  const io::Json report = io::read_json(scratch.path() / "found/report.json");
  expect_success(run({"inspect", "out", "--verify"}, scratch.path()));
  expect_success(run({"evaluate", "--model", tiny_model().string(), "--model", "out", "--text",
                      (tiny_model() / "data/evaluation.txt").string(), "--windows", "1", "--window",
                      "64", "--json", "evaluated.json"},
                     scratch.path()));
  const io::Json evaluated = io::read_json(scratch.path() / "evaluated.json");
  EXPECT_NEAR(evaluated.at("results")[1].at("bits_per_weight").get<double>(),
              report.at("allocations")[1].at("bits").get<double>(), 1e-9);
}

TEST(SearchJob, KilledAnywhereItGoesOnToTheSameScores) {
  const ScratchDirectory scratch;
  const Arguments args = search_tiny() + Arguments{"--output-dir"};
  expect_same_when_killed(args, scratch.path(), {1, 15000, 25000, 30000});
}

TEST(SearchJob, ChoosesAgainFromScoresWithoutAModel) {
  const ScratchDirectory scratch;
  expect_success(run(search_tiny("0") + Arguments{"--output-dir", "found"}, scratch.path()));
  expect_success(run({"search", "--scores", "found/scores.json", "--auto-quantize-bits", "6",
                      "--candidates", "nvfp4,nvfp4_sweep,fp8,bf16", "--output-dir", "again"},
                     scratch.path()));
  const std::string first = read_file(scratch.path() / "found/recipe_6_bits.yaml");
  EXPECT_EQ(read_file(scratch.path() / "again/recipe_6_bits.yaml"), first);
}

TEST(SearchJob, QuantizeSearchesFirst) {
  const ScratchDirectory scratch;
  const Arguments args = {"quantize",
                          "--hf-model-id",
                          tiny_model().string(),
                          "--calib-size",
                          "2",
                          "--calib-seq-length",
                          "64",
                          "--auto-quantize-bits",
                          "5",
                          "--export-dir",
                          "out",
                          "--skip-generate"};
  expect_success(run(args, scratch.path()));
  EXPECT_TRUE(fs::exists(scratch.path() / "out_search_5/recipe_5_bits.yaml"));
  expect_success(run({"inspect", "out", "--verify"}, scratch.path()));
}

// By group, candidate and kind; without those that were not measured.
std::vector<double> scores_of(const fs::path& directory) {
  const io::Json scores = io::read_json(directory / "scores.json");
  std::vector<double> all;
  for (const io::Json& group : scores.at("groups")) {
    for (const auto& [candidate, by_kind] : group.at("scores").items()) {
      for (const auto& [kind, nats] : by_kind.items()) {
        if (nats != 0.0) all.push_back(nats);
      }
    }
  }
  return all;
}

// In layouts that share out layers, their halves and their experts. Sums run in another order, so
// that values and tokens at ties fall the other way: few of 256 tokens.
TEST(SearchJob, RanksFindTheScoresOfOne) {
  const ScratchDirectory scratch;
  const Arguments args = search_tiny("0") + Arguments{"--all-scores", "--output-dir"};
  expect_success(run(args + Arguments{"one"}, scratch.path()));
  const std::vector<double> expected = scores_of(scratch.path() / "one");
  const std::pair<int, Arguments> layouts[] = {
      {4, {"four", "--tp", "2", "--pp", "2", "--ep", "2"}},
      {2, {"two", "--ep", "2"}},
  };
  for (const auto& [n, flags] : layouts) {
    expect_success(run_ranks(n, args + flags, scratch.path()));
    const std::vector<double> found = scores_of(scratch.path() / flags.front());
    ASSERT_EQ(found.size(), expected.size());
    ASSERT_GT(expected.size(), 200u);
    for (size_t score = 0; score < expected.size(); ++score) {
      EXPECT_NEAR(found[score] / expected[score], 1, 0.1) << flags.front() << " " << score;
    }
  }
}

TEST(SearchJob, QuantizeSearchesFirstOnRanksToo) {
  const ScratchDirectory scratch;
  const Arguments args = {"quantize",
                          "--hf-model-id",
                          tiny_model().string(),
                          "--calib-size",
                          "2",
                          "--calib-seq-length",
                          "64",
                          "--auto-quantize-bits",
                          "5",
                          "--tp",
                          "2",
                          "--export-dir",
                          "out",
                          "--skip-generate"};
  expect_success(run_ranks(2, args, scratch.path()));
  EXPECT_TRUE(fs::exists(scratch.path() / "out_search_5/recipe_5_bits.yaml"));
  expect_success(run({"inspect", "out", "--verify"}, scratch.path()));
}

struct BadSearch {
  Arguments args;
  std::string sentence;
};

TEST(SearchJob, RefusesWithOneSentence) {
  const ScratchDirectory scratch;
  expect_success(run(search_tiny("0") + Arguments{"--output-dir", "found"}, scratch.path()));
  const Arguments again = {"search", "--scores", "found/scores.json", "--output-dir", "out"};
  const std::string latent =
      (fs::path(VERNIER_SOURCE_DIR) / "tests/golden/latent/checkpoint").string();
  const std::vector<BadSearch> cases = {
      {{"search", "--auto-quantize-bits", "5"}, "search needs --hf-model-id, or --scores"},
      {again, "search needs a budget"},
      {again + Arguments{"--prefill-ms", "5"}, "need --gemm-table, found none"},
      {again + Arguments{"--auto-quantize-bits", "4"},
       "the budget of 4 bits a weight cannot be kept: the least that these candidates reach is "
       "4.5"},
      {again + Arguments{"--auto-quantize-bits", "5", "--disable", "*nothing*"},
       "the pattern \"*nothing*\" matches no linear module"},
      {again + Arguments{"--auto-quantize-bits", "5", "--disable", "*experts.3.*"},
       "matches some modules of backbone.layers.1.mixer.experts and not others"},
      {again + Arguments{"--auto-quantize-bits", "5", "--candidates", "fp4"},
       "unknown candidate \"fp4\", expected one of bf16"},
      {again + Arguments{"--auto-quantize-bits", "5", "--candidates-for", "lm_head"},
       "--candidates-for: found \"lm_head\", expected PATTERN=CANDIDATE,..."},
      {again + Arguments{"--auto-quantize-bits", "5", "--fixed", "fp8"},
       "--fixed needs --hf-model-id"},
      {again + Arguments{"--auto-quantize-bits", "5", "--hf-model-id", latent},
       "found/scores.json: scores of another model: "},
      {{"search", "--scores", "absent.json", "--auto-quantize-bits", "5", "--output-dir", "out"},
       "absent.json"},
      {search_tiny() + Arguments{"--output-dir", "out", "--disable", "*experts.3.*"},
       "matches some modules of backbone.layers.1.mixer.experts and not others"},
      {{"bench", "--gemm-table", "out", "--hf-model-id", latent, "--candidates", "nope"},
       "unknown candidate \"nope\""},
      {{"bench", "--gemm-table", "none/t.json", "--hf-model-id", latent},
       "--gemm-table: none/t.json cannot be written"},
      {{"bench", "--hf-model-id", latent}, "--gemm-table is required"},
      {{"quantize", "--hf-model-id", tiny_model().string(), "--export-dir", "out"},
       "--export-quant-cfg: missing"},
  };
  for (const BadSearch& bad : cases) {
    const Outcome outcome = run(bad.args, scratch.path());
    EXPECT_EQ(outcome.status, 2) << bad.sentence << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(bad.sentence));
    EXPECT_FALSE(fs::exists(scratch.path() / "out")) << bad.sentence;
    EXPECT_FALSE(fs::exists(scratch.path() / "out.vernier-staging")) << bad.sentence;
  }
}

}  // namespace
}  // namespace vernier::tests
