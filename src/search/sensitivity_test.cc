#include "search/sensitivity.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "base/testing.h"
#include "comm/thread_ranks.h"
#include "eval/evaluate.h"
#include "kernels/linear.h"
#include "quant/plan.h"
#include "search/golden_subject.h"

namespace vernier::search {
namespace {

const std::string kCandidates = "nvfp4,nvfp4_sweep,fp8";

void expect_same(const Sensitivity& found, const Sensitivity& expected) {
  ASSERT_EQ(found.scores.size(), expected.scores.size());
  for (size_t group = 0; group < found.scores.size(); ++group) {
    ASSERT_EQ(found.scores[group].size(), expected.scores[group].size());
    for (size_t candidate = 0; candidate < found.scores[group].size(); ++candidate) {
      const std::optional<Score>& score = found.scores[group][candidate];
      const std::optional<Score>& wanted = expected.scores[group][candidate];
      ASSERT_EQ(score.has_value(), wanted.has_value());
      if (!score) continue;
      EXPECT_EQ(score->fisher, wanted->fisher) << group;
      EXPECT_EQ(score->gauss_newton, wanted->gauss_newton) << group;
      EXPECT_EQ(score->gauss_newton_windows, wanted->gauss_newton_windows) << group;
    }
  }
}

class GoldenSensitivity : public ::testing::TestWithParam<std::string> {
 protected:
  SensitivityJob both_kinds(const std::string& candidates) const {
    SensitivityJob job = subject_.job(candidates);
    job.kinds = {.fisher = true, .gauss_newton = true};
    return job;
  }

  const GoldenSubject subject_{GetParam()};
};

TEST_P(GoldenSensitivity, ScoresEveryGroupAndCandidate) {
  const Sensitivity found = measure_sensitivity(both_kinds(kCandidates));
  const auto groups = make_groups(subject_.stored.model->tree());
  ASSERT_EQ(found.scores.size(), groups.size());
  for (size_t group = 0; group < groups.size(); ++group) {
    ASSERT_EQ(found.scores[group].size(), 3u) << groups[group].name;
    for (const std::optional<Score>& score : found.scores[group]) {
      ASSERT_TRUE(score.has_value()) << groups[group].name;
      EXPECT_GT(score->fisher, 0) << groups[group].name;
      EXPECT_GT(score->gauss_newton, 0) << groups[group].name;
      EXPECT_GT(score->gauss_newton_windows, 0) << groups[group].name;
    }
    // Eight bits hurt less than four.
    EXPECT_LT(found.scores[group][2]->gauss_newton, found.scores[group][0]->gauss_newton)
        << groups[group].name;
  }
}

// At the head nothing lies between the module and the logits: half the mean of d^T H d is the KL to
// third order in the error. One probe a position, hence the mean over many seeds: the estimate of
// 150 positions has a standard error of about sqrt(2 / 150) = 0.12, of 24 seeds 0.024.
TEST_P(GoldenSensitivity, GaussNewtonPredictsTheHeadsDivergence) {
  const auto groups = make_groups(subject_.stored.model->tree());
  double predicted = 0;
  constexpr int kSeeds = 24;
  Statistics statistics;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    SensitivityJob job = subject_.job("fp8");
    job.seed = seed;
    const Sensitivity found = measure_sensitivity(job);
    predicted += found.scores.back()[0]->gauss_newton / kSeeds;
    statistics = found.statistics;
  }
  quant::Recipe recipe;
  for (const char* quantizer : {"weight", "input"}) {
    quant::Rule rule;
    rule.pattern = std::string("lm_head.") + quantizer + "_quantizer";
    rule.config = find_candidate("fp8").weight;
    recipe.rules.push_back(rule);
  }
  const model::Model& model = *subject_.stored.model;
  const quant::QuantPlan plan = quant::make_plan(recipe, model.tree(), {});
  WeightAmaxes amaxes(*subject_.stored.weights, model.ranks().tensor());
  const QuantizedWeights moved(model.tree(), *subject_.stored.weights, plan, statistics, amaxes,
                               formats::Arithmetic::kCuda);
  const std::vector<eval::Score> scores = eval::evaluate(
      {{"base", model, *subject_.stored.weights}, {"moved", model, moved}}, subject_.windows, {});
  EXPECT_NEAR(predicted / scores[1].kl.mean, 1.0, 0.1);
}

// What is shown of a layer does not depend on how windows fall into chunks; products of other
// shapes may sum in another order, so that a value at a tie of its format, or a token at a tie of
// the router, falls the other way: a few of 150 tokens' scores. Sums over windows cancel and
// show it more.
TEST_P(GoldenSensitivity, ChunksAddUp) {
  const Sensitivity whole = measure_sensitivity(both_kinds(kCandidates));
  SensitivityJob job = both_kinds(kCandidates);
  job.chunk_windows = 4;
  const Sensitivity chunked = measure_sensitivity(job);
  for (size_t group = 0; group < whole.scores.size(); ++group) {
    for (size_t candidate = 0; candidate < 3; ++candidate) {
      const Score& wanted = *whole.scores[group][candidate];
      const Score& found = *chunked.scores[group][candidate];
      EXPECT_NEAR(found.fisher / wanted.fisher, 1, 0.02) << group;
      EXPECT_NEAR(found.gauss_newton / wanted.gauss_newton, 1, 0.02) << group;
      EXPECT_NEAR(found.gauss_newton_windows / wanted.gauss_newton_windows, 1, 0.1) << group;
    }
  }
}

// Replicas take chunks in turn, and come to the bits of one rank with as many chunks: whether each
// has one chunk or several, and where the last has none.
TEST_P(GoldenSensitivity, ReplicasGiveTheScoresOfOneRank) {
  kernels::configure_host_threads();
  for (const int64_t chunk_windows : {1, 2}) {
    SensitivityJob job = both_kinds("nvfp4,fp8");
    job.chunk_windows = chunk_windows;
    job.batch_windows = 1;
    const Sensitivity expected = measure_sensitivity(job);
    for (const int n_replicas : {2, 3}) {
      comm::run_thread_ranks(n_replicas, [&](const comm::Communicator& world) {
        kernels::configure_host_threads();
        const comm::Ranks ranks(world, comm::Layout(n_replicas, 1, 1, 1));
        const GoldenSubject subject(GetParam(), &ranks);
        SensitivityJob shared = subject.job("nvfp4,fp8");
        shared.kinds = job.kinds;
        shared.chunk_windows = chunk_windows;
        shared.batch_windows = 1;
        expect_same(measure_sensitivity(shared), expected);
      });
    }
  }
}

// A job that is killed after any of its records goes on to the same scores, bit for bit.
TEST_P(GoldenSensitivity, GoesOnFromEveryRecord) {
  const TemporaryDirectory directory;
  SensitivityJob job = both_kinds("nvfp4,fp8");
  job.chunk_windows = 4;
  job.batch_windows = 2;
  io::Journal whole(directory / "whole");
  job.journal = &whole;
  const Sensitivity expected = measure_sensitivity(job);

  std::ifstream file(directory / "whole");
  std::vector<std::string> records;
  for (std::string line; std::getline(file, line);) records.push_back(line);
  ASSERT_GT(records.size(), 20u);
  for (size_t n_kept = 0; n_kept < records.size(); n_kept += 3) {
    const std::filesystem::path path = directory / ("first " + std::to_string(n_kept));
    std::ofstream part(path);
    for (size_t record = 0; record < n_kept; ++record) part << records[record] << "\n";
    part.close();
    io::Journal journal(path);
    job.journal = &journal;
    expect_same(measure_sensitivity(job), expected);
    EXPECT_EQ(journal.size(), whole.size());
  }
}

// A kind's scores do not depend on what else is measured.
TEST_P(GoldenSensitivity, KindsAreMeasuredAlone) {
  const Sensitivity both = measure_sensitivity(both_kinds("fp8"));
  SensitivityJob job = subject_.job("fp8");
  job.kinds = {.fisher = true, .gauss_newton = false};
  const Sensitivity fisher = measure_sensitivity(job);
  job.kinds = {.fisher = false, .gauss_newton = true};
  const Sensitivity gauss_newton = measure_sensitivity(job);
  for (size_t group = 0; group < both.scores.size(); ++group) {
    EXPECT_EQ(fisher.scores[group][0]->fisher, both.scores[group][0]->fisher);
    EXPECT_EQ(fisher.scores[group][0]->gauss_newton, 0);
    EXPECT_EQ(gauss_newton.scores[group][0]->gauss_newton, both.scores[group][0]->gauss_newton);
    EXPECT_EQ(gauss_newton.scores[group][0]->fisher, 0);
  }
}

// Half of the tokens say about the same.
TEST_P(GoldenSensitivity, ASampleEstimatesTheWhole) {
  const Sensitivity whole = measure_sensitivity(subject_.job("nvfp4"));
  SensitivityJob job = subject_.job("nvfp4");
  job.score_tokens = 0.5;
  const Sensitivity sampled = measure_sensitivity(job);
  double sum_whole = 0;
  double sum_sampled = 0;
  for (size_t group = 0; group < whole.scores.size(); ++group) {
    EXPECT_NE(sampled.scores[group][0]->gauss_newton, whole.scores[group][0]->gauss_newton);
    sum_whole += whole.scores[group][0]->gauss_newton;
    sum_sampled += sampled.scores[group][0]->gauss_newton;
  }
  EXPECT_NEAR(sum_sampled / sum_whole, 1, 0.5);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, GoldenSensitivity, ::testing::Values("latent", "grouped"));

}  // namespace
}  // namespace vernier::search
