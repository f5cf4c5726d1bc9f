#include "search/allocation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/testing.h"
#include "quant/plan.h"
#include "search/golden_subject.h"

namespace vernier::search {
namespace {

using ::testing::HasSubstr;

// Three groups, scores by candidate: nvfp4, nvfp4_sweep, fp8.
Scores small_scores() {
  Scores scores;
  scores.model = "small";
  scores.kinds = {.fisher = true, .gauss_newton = true};
  scores.candidates = parse_candidates("nvfp4,nvfp4_sweep,fp8");
  const auto add = [&](const std::string& name, std::vector<std::string> modules, int64_t n_weights,
                       int64_t n_active, std::initializer_list<double> losses) {
    ScoredGroup group{.name = name,
                      .layer = static_cast<int>(scores.groups.size()),
                      .is_routed = modules.size() > 1,
                      .modules = std::move(modules),
                      .n_weights = n_weights,
                      .n_active_weights = n_active};
    for (const double loss : losses) {
      group.scores.push_back(
          Score{.fisher = 1 - loss, .gauss_newton = loss, .gauss_newton_windows = loss});
    }
    scores.groups.push_back(std::move(group));
  };
  add("a.in_proj", {"a.in_proj"}, 1000, 1000, {0.4, 0.3, 0.1});
  add("b.experts", {"b.experts.0.up_proj", "b.experts.1.up_proj"}, 4000, 1000, {0.2, 0.25, 0.05});
  add("lm_head", {"lm_head"}, 1000, 1000, {0.8, 0.7, 0.02});
  return scores;
}

std::string chosen(const Allocation& allocation) {
  std::string text;
  for (const Candidate* candidate : allocation.chosen) {
    text += std::string(text.empty() ? "" : " ") +
            (candidate == nullptr ? "bf16" : std::string(candidate->name));
  }
  return text;
}

Allocator allocator(const Scores& scores, const Restrictions& restrictions = {},
                    ScoreKind kind = ScoreKind::kGaussNewton) {
  return Allocator(scores, restrictions, kind, nullptr);
}

std::string failure(const Scores& scores, const Restrictions& restrictions,
                    const Budget& budget = {.bits = 16}) {
  const Error error = error_of([&] { allocator(scores, restrictions).best(budget); });
  EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
  return error.message();
}

TEST(Allocator, TakesTheLeastLossWithinTheBudget) {
  const Scores scores = small_scores();
  const Allocator all = allocator(scores);
  EXPECT_EQ(chosen(all.best({.bits = 16})), "bf16 bf16 bf16");
  // 4.5 bits everywhere, the better rule in each group.
  EXPECT_EQ(chosen(all.best({.bits = 4.5})), "nvfp4_sweep nvfp4 nvfp4_sweep");
  // 3.5 bits more for one of the small groups.
  const Allocation one = all.best({.bits = 4.5 + 3.5 / 6 + 1e-9});
  EXPECT_EQ(chosen(one), "nvfp4_sweep nvfp4 fp8");
  EXPECT_DOUBLE_EQ(one.predicted_kl, 0.3 + 0.2 + 0.02);
  EXPECT_DOUBLE_EQ(one.bits, (4.5 * 5000 + 8 * 1000) / 6000);
  EXPECT_DOUBLE_EQ(one.active_bits, (4.5 * 2000 + 8 * 1000) / 3000);
}

TEST(Allocator, NeedsTheScoresAskedFor) {
  Scores scores = small_scores();
  scores.kinds = {.fisher = false, .gauss_newton = true};
  EXPECT_EQ(error_of([&] { allocator(scores, {}, ScoreKind::kFisher); }).message(),
            "these scores hold none of the method fisher; measure them with --method fisher");
}

// A budget that is exactly a sum of bits is kept by that sum.
TEST(Allocator, ABudgetIsKeptToTheLastBit) {
  const Scores scores = small_scores();
  const double bits = (4.5 * 5000 + 8 * 1000) / 6000.0;
  EXPECT_EQ(chosen(allocator(scores).best({.bits = bits})), "nvfp4_sweep nvfp4 fp8");
  EXPECT_EQ(chosen(allocator(scores).best({.bits = bits - 1e-6})), "nvfp4_sweep nvfp4 nvfp4_sweep");
}

TEST(Allocator, ChoosesByTheScoresAskedFor) {
  const Scores scores = small_scores();
  const Allocator fisher = allocator(scores, {}, ScoreKind::kFisher);
  EXPECT_EQ(chosen(fisher.best({.bits = 4.5})), "nvfp4 nvfp4_sweep nvfp4");
}

// Experts are four sixths of the weights and a third of what a token reads.
TEST(Allocator, ActiveBitsCountWhatATokenReads) {
  const Scores scores = small_scores();
  const Allocation allocation = allocator(scores).best({.active_bits = 5.7});
  EXPECT_LE(allocation.active_bits, 5.7);
  EXPECT_GT(allocation.bits, 4.5);
  const Allocation both = allocator(scores).best({.bits = 5.1, .active_bits = 5.7});
  EXPECT_LE(both.bits, 5.1);
  EXPECT_LE(both.active_bits, 5.7);
}

TEST(Allocator, DisabledModulesStayAndCount) {
  const Scores scores = small_scores();
  const Allocator without_head = allocator(scores, {.disabled = {"lm_head"}});
  EXPECT_EQ(chosen(without_head.best({.bits = 8})), "fp8 nvfp4 bf16");
  EXPECT_THAT(failure(scores, {.disabled = {"lm_head"}}, {.bits = 4.75}),
              HasSubstr("the budget of 4.75 bits a weight cannot be kept: the least that these "
                        "candidates reach is 6.41667"));
}

TEST(Allocator, UncountedModulesCostNothing) {
  const Scores scores = small_scores();
  const Allocation allocation = allocator(scores, {.uncounted = {"lm_head"}}).best({.bits = 4.5});
  EXPECT_EQ(chosen(allocation), "nvfp4_sweep nvfp4 bf16");
  EXPECT_DOUBLE_EQ(allocation.bits, 4.5);
}

TEST(Allocator, ListsRestrictSomeModules) {
  const Scores scores = small_scores();
  const Restrictions lists{.lists = {{"b.experts.*", parse_candidates("fp8,bf16")}}};
  EXPECT_EQ(chosen(allocator(scores, lists).best({.bits = 7})), "nvfp4_sweep fp8 nvfp4_sweep");
  const Restrictions everything{.lists = {}, .allows_unquantized = false};
  EXPECT_EQ(chosen(allocator(scores, everything).best({.bits = 16})), "fp8 fp8 fp8");
}

TEST(Allocator, RefusesWhatCannotBeMeant) {
  const Scores scores = small_scores();
  EXPECT_EQ(failure(scores, {.disabled = {"*conv*"}}),
            "the pattern \"*conv*\" matches no linear module");
  EXPECT_EQ(failure(scores, {.disabled = {"b.experts.0.*"}}),
            "the pattern \"b.experts.0.*\" matches some modules of b.experts and not others, which "
            "servers need in one format");
  EXPECT_EQ(failure(scores, {.uncounted = {"*conv*"}}),
            "the pattern \"*conv*\" matches no linear module");
  EXPECT_EQ(failure(scores, {.lists = {{"a.*", parse_candidates("fp8")},
                                       {"*in_proj", parse_candidates("nvfp4")}}}),
            "two lists of candidates are for a.in_proj, the second by the pattern \"*in_proj\"");
  EXPECT_EQ(failure(scores, {.lists = {{"a.*", parse_candidates("w4a16_nvfp4")}}}),
            "the candidates for \"a.*\" leave nothing to choose for a.in_proj");
  EXPECT_EQ(failure(scores, {}, {.bits = 4}),
            "the budget of 4 bits a weight cannot be kept: the least that these candidates reach "
            "is 4.5");
  EXPECT_EQ(failure(scores, {}, {.bits = 16, .prefill_seconds = 1}),
            "a budget of time needs a table of products (--gemm-table)");
}

// Budgets from everything in four bits to everything as it is: fewer bits, more loss.
TEST(Allocator, TheFrontierHoldsEveryBest) {
  const Scores scores = small_scores();
  const Allocator all = allocator(scores);
  const std::vector<FrontierPoint> frontier = all.frontier();
  ASSERT_GT(frontier.size(), 5u);
  EXPECT_DOUBLE_EQ(frontier.front().bits, 4.5);
  EXPECT_DOUBLE_EQ(frontier.back().bits, 16);
  EXPECT_EQ(frontier.back().predicted_kl, 0);
  for (size_t index = 1; index < frontier.size(); ++index) {
    EXPECT_GT(frontier[index].bits, frontier[index - 1].bits);
    EXPECT_LT(frontier[index].predicted_kl, frontier[index - 1].predicted_kl);
  }
  for (const FrontierPoint& point : frontier) {
    EXPECT_DOUBLE_EQ(all.best({.bits = point.bits}).predicted_kl, point.predicted_kl);
  }
}

TEST(Candidates, AreFoundByName) {
  EXPECT_EQ(find_candidate("fp8").bits_per_weight, 8);
  EXPECT_EQ(find_candidate("nvfp4_sweep").bits_per_weight, 4.5);
  EXPECT_THAT(error_of([] { parse_candidates("fp8,int4"); }).message(),
              HasSubstr("unknown candidate \"int4\", expected one of bf16, fp8, nvfp4"));
  EXPECT_EQ(error_of([] { parse_candidates("fp8,fp8"); }).message(),
            "the candidate \"fp8\" is given twice");
}

// The recipe file of an assignment decides as the assignment does, for every module.
TEST(RecipeText, IsTheAssignment) {
  const GoldenSubject subject("latent");
  const model::ModuleTree& tree = subject.stored.model->tree();
  const auto groups = make_groups(tree);
  Scores scores;
  scores.candidates = parse_candidates("nvfp4,nvfp4_sweep,nvfp4_four_over_six,fp8,w4a16_nvfp4");
  Assignment assignment;
  for (size_t index = 0; index < groups.size(); ++index) {
    ScoredGroup& group = scores.groups.emplace_back();
    group.name = groups[index].name;
    group.is_routed = groups[index].is_routed;
    for (const model::Module* module : groups[index].modules) group.modules.push_back(module->name);
    const size_t choice = index % (scores.candidates.size() + 1);
    assignment.push_back(choice == 0 ? nullptr : scores.candidates[choice - 1]);
  }
  const TemporaryDirectory directory;
  std::ofstream(directory / "recipe.yaml")
      << recipe_text(scores, assignment, "a test: with a colon", "# a comment\n");
  const quant::QuantPlan from_file =
      quant::make_plan(quant::load_recipe((directory / "recipe.yaml").string()), tree, {});
  const quant::QuantPlan direct = quant::make_plan(assignment_recipe(scores, assignment), tree, {});
  for (size_t index = 0; index < groups.size(); ++index) {
    for (const model::Module* module : groups[index].modules) {
      const quant::SitePlan& found = from_file.site(*module);
      const quant::SitePlan& wanted = direct.site(*module);
      EXPECT_EQ(found.weight_format, wanted.weight_format) << module->name;
      EXPECT_EQ(found.scale_rule, wanted.scale_rule) << module->name;
      EXPECT_EQ(found.input_format, wanted.input_format) << module->name;
      EXPECT_EQ(found.is_quantized(), assignment[index] != nullptr) << module->name;
    }
  }
}

TEST(Scores, ReadBackAsTheyWere) {
  const GoldenSubject subject("grouped");
  const SensitivityJob job = subject.job("nvfp4,fp8");
  const Scores scores = make_scores(job, measure_sensitivity(job));
  const TemporaryDirectory directory;
  write_scores(scores, directory / "scores.json");
  const Scores found = read_scores(directory / "scores.json");
  EXPECT_EQ(found.candidates, scores.candidates);
  EXPECT_EQ(found.input_amax, scores.input_amax);
  ASSERT_EQ(found.groups.size(), scores.groups.size());
  for (size_t group = 0; group < scores.groups.size(); ++group) {
    EXPECT_EQ(found.groups[group].modules, scores.groups[group].modules);
    EXPECT_EQ(found.groups[group].n_active_weights, scores.groups[group].n_active_weights);
    for (size_t candidate = 0; candidate < 2; ++candidate) {
      EXPECT_EQ(found.groups[group].scores[candidate]->gauss_newton,
                scores.groups[group].scores[candidate]->gauss_newton);
      EXPECT_EQ(found.groups[group].scores[candidate]->fisher,
                scores.groups[group].scores[candidate]->fisher);
    }
  }
  check_same_network(found, subject.stored.model->tree(), "scores.json");
}

TEST(Scores, AreOfOneNetwork) {
  const GoldenSubject subject("grouped");
  const SensitivityJob job = subject.job("fp8");
  const Scores scores = make_scores(job, measure_sensitivity(job));
  const model::StoredModel other = open_golden("latent");
  EXPECT_THAT(
      error_of([&] { check_same_network(scores, other.model->tree(), "scores.json"); }).message(),
      HasSubstr("scores.json: scores of another model: "));
}

TEST(Scores, RefuseOtherFiles) {
  const TemporaryDirectory directory;
  std::ofstream(directory / "a.json") << "[1, 2]";
  EXPECT_THAT(error_of([&] { read_scores(directory / "a.json"); }).message(),
              HasSubstr("no scores of a search of this version"));
  std::ofstream(directory / "b.json") << R"({"version": 1, "model": "m"})";
  EXPECT_THAT(error_of([&] { read_scores(directory / "b.json"); }).message(),
              HasSubstr("not the scores of a search"));
}

}  // namespace
}  // namespace vernier::search
