#include "search/knapsack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "base/random.h"
#include "base/testing.h"
#include "io/json.h"
#include "search/test_support.h"

namespace vernier::search {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::pair<std::string, int>> names_of(const std::vector<Group>& groups,
                                                  const Solution& solution) {
  std::vector<std::pair<std::string, int>> names;
  for (size_t group = 0; group < groups.size(); ++group) {
    const int place = solution.chosen[group];
    names.emplace_back(groups[group][static_cast<size_t>(place)].name, place);
  }
  return names;
}

// The best of all ways to choose that keep the budgets, by knapsack.h's order.
std::optional<Solution> exhaustive(const Problem& problem) {
  std::optional<Solution> best;
  for_every_solution(problem.groups, problem.budgets.size(), [&](const Solution& solution) {
    for (size_t k = 0; k < problem.budgets.size(); ++k) {
      if (solution.cost[k] > problem.budgets[k]) return;
    }
    const auto key = [&](const Solution& one) {
      return std::make_tuple(one.loss, one.cost, names_of(problem.groups, one));
    };
    if (!best || key(solution) < key(*best)) best = solution;
  });
  return best;
}

void expect_best(const Problem& problem) {
  const std::optional<Solution> expected = exhaustive(problem);
  const std::optional<Solution> found = solve(problem);
  ASSERT_EQ(found.has_value(), expected.has_value());
  if (!found) return;
  EXPECT_EQ(found->loss, expected->loss);
  EXPECT_EQ(found->cost, expected->cost);
  EXPECT_EQ(found->chosen, expected->chosen);
}

// 12 bits buy the high choice of the first group, or those of both others:
//   first: 0 bits loss 9, 12 bits loss 0      saves 9
//   second: 0 bits loss 5, 6 bits loss 0      saves 5
//   third: 0 bits loss 6, 6 bits loss 1       saves 5
TEST(Knapsack, WorkedByHand) {
  const Problem problem{{{{"low", 9, {0}}, {"high", 0, {12}}},
                         {{"low", 5, {0}}, {"high", 0, {6}}},
                         {{"low", 6, {0}}, {"high", 1, {6}}}},
                        {12}};
  const std::optional<Solution> solution = solve(problem);
  ASSERT_TRUE(solution);
  EXPECT_THAT(solution->chosen, ElementsAre(0, 1, 1));
  EXPECT_EQ(solution->loss, 10);
  EXPECT_THAT(solution->cost, ElementsAre(12));
}

TEST(Knapsack, AgreesWithExhaustiveSearch) {
  for (uint32_t n_constraints = 1; n_constraints <= kMaxConstraints; ++n_constraints) {
    for (uint32_t seed = 0; seed < 2500; ++seed) {
      SCOPED_TRACE(testing::Message() << n_constraints << " constraints, seed " << seed);
      expect_best(random_problem(seed, n_constraints));
      if (testing::Test::HasFailure()) return;
    }
  }
}

TEST(Knapsack, EqualLossesAreDecidedByCostsThenNames) {
  const Problem by_cost{{{{"a", 1, {5, 2}}, {"b", 1, {5, 1}}, {"c", 1, {6, 0}}}}, {9, 9}};
  EXPECT_THAT(solve(by_cost)->chosen, ElementsAre(1));

  // Either group may spend the 4: the first one takes the name that comes first.
  const Group group{{"z", 2, {0}}, {"a", 1, {4}}};
  EXPECT_THAT(solve({{group, group, group}, {4}})->chosen, ElementsAre(1, 0, 0));
  const Group renamed{{"a", 2, {0}}, {"z", 1, {4}}};
  EXPECT_THAT(solve({{renamed, renamed, renamed}, {4}})->chosen, ElementsAre(0, 0, 1));
}

TEST(Knapsack, EqualGroupsTakeNoExponentialTime) {
  const Group group{{"fp8", 1, {8}}, {"nvfp4", 3, {4}}, {"nvfp4 mse", 3, {4}}};
  const Problem problem{std::vector<Group>(500, group), {500 * 6}};
  const std::optional<Solution> solution = solve(problem);
  EXPECT_EQ(solution->loss, 250 * 1 + 250 * 3);
  EXPECT_EQ(solution->chosen.front(), 0);
  EXPECT_EQ(solution->chosen.back(), 1);
}

TEST(Knapsack, NoGroupsCostNothing) {
  const std::optional<Solution> solution = solve({{}, {0}});
  ASSERT_TRUE(solution);
  EXPECT_EQ(solution->loss, 0);
  EXPECT_THAT(solution->cost, ElementsAre(0));
  EXPECT_FALSE(solve({{}, {-1}}));
}

TEST(Knapsack, BudgetsBelowTheLeastCostHaveNoSolution) {
  const Problem problem = random_problem(1, 1);
  const int64_t least = least_cost(problem.groups, 0);
  EXPECT_FALSE(solve({problem.groups, {least - 1}}));
  EXPECT_EQ(solve({problem.groups, {least}})->cost[0], least);
  EXPECT_TRUE(solve({problem.groups, {INT64_MAX}}));
}

// Each budget could be kept alone.
TEST(Knapsack, BudgetsMayExcludeEachOther) {
  const Group group{{"a", 0, {0, 3}}, {"b", 0, {3, 0}}};
  EXPECT_FALSE(solve({{group, group, group}, {4, 4}}));
  EXPECT_TRUE(solve({{group, group, group}, {6, 3}}));
}

TEST(Knapsack, SeveralBudgetsAtOnce) {
  const std::vector<Group> groups = random_problem(3, 1).groups;
  const int64_t least = least_cost(groups, 0);
  const std::vector<int64_t> budgets{least - 1, least, least + 20};
  const auto solutions = solve_all(groups, budgets);
  ASSERT_EQ(solutions.size(), 3u);
  EXPECT_FALSE(solutions[0]);
  EXPECT_EQ(solutions[1]->chosen, solve({groups, {least}})->chosen);
  EXPECT_EQ(solutions[2]->chosen, solve({groups, {least + 20}})->chosen);
}

// Scaling losses by a power of two and costs by any factor changes no choice.
TEST(Knapsack, ScalesDoNotMatter) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    const Problem problem = random_problem(seed, 1);
    const std::optional<Solution> expected = solve(problem);
    for (const int exponent : {-1000, -40, 900}) {
      Problem scaled = problem;
      scaled.budgets[0] *= int64_t{1} << 20;
      for (Group& group : scaled.groups) {
        for (Choice& choice : group) {
          choice.loss = std::ldexp(choice.loss, exponent);
          choice.cost[0] *= int64_t{1} << 20;
        }
      }
      const std::optional<Solution> found = solve(scaled);
      ASSERT_EQ(found.has_value(), expected.has_value());
      if (!found) continue;
      EXPECT_EQ(found->chosen, expected->chosen) << "seed " << seed;
    }
  }
}

// tools/oracle/milp_goldens.py
TEST(Knapsack, AgreesWithAnIntegerProgramSolver) {
  const io::Json golden = io::read_json(VERNIER_SOURCE_DIR "/tests/golden/knapsack.json");
  ASSERT_GE(golden["cases"].size(), 6u);
  for (const io::Json& one : golden["cases"]) {
    Problem problem;
    for (const io::Json& choices : one["groups"]) {
      Group& group = problem.groups.emplace_back();
      for (const io::Json& choice : choices) {
        const auto values = choice.get<std::vector<int64_t>>();
        group.push_back({"", static_cast<double>(values[0]), {values.begin() + 1, values.end()}});
      }
    }
    for (const io::Json& optimum : one["optima"]) {
      problem.budgets = optimum["budgets"].get<std::vector<int64_t>>();
      const std::optional<Solution> solution = solve(problem);
      SCOPED_TRACE(testing::Message() << one["kind"] << ", budget " << problem.budgets[0]);
      ASSERT_EQ(solution.has_value(), !optimum["loss"].is_null());
      if (!solution) continue;
      EXPECT_EQ(solution->loss, optimum["loss"].get<double>());
      for (size_t k = 0; k < problem.budgets.size(); ++k) {
        EXPECT_LE(solution->cost[k], problem.budgets[k]);
      }
    }
  }
}

// Every sum of costs is another loss, and nearly every one is reached.
TEST(Knapsack, GivesUpRatherThanReturnLessThanTheBest) {
  Problem problem{{}, {0}};
  for (uint32_t group = 0; group < 40; ++group) {
    problem.groups.push_back({{"none", 1e12, {0}}});
    for (uint32_t place = 0; place < 4; ++place) {
      const int64_t cost = random_bits(5, group, place);
      problem.groups.back().push_back({"", 1e12 - static_cast<double>(cost), {cost}});
      problem.budgets[0] += cost / 8;
    }
  }
  const Error error = error_of([&] { solve(problem, 10000); });
  EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
  EXPECT_THAT(error.message(), HasSubstr("40 groups takes more than 10000 states"));
}

TEST(Knapsack, RejectedInputs) {
  const auto message = [](const std::vector<Group>& groups) {
    const Error error = error_of([&] { solve({groups, {10}}); });
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
    return error.message();
  };
  const Group good{{"a", 1, {1}}};
  EXPECT_EQ(message({good, {}}), "group 1 has no choices");
  EXPECT_EQ(message({good, {{"b", NAN, {1}}}}),
            "the loss of choice \"b\" of group 1 is nan, expected a finite number");
  EXPECT_EQ(message({{{"b", 1, {-2}}}}),
            "a cost of choice \"b\" of group 0 is -2, expected 0 or more");
  const Group large{{"c", 1, {int64_t{1} << 59}}};
  EXPECT_EQ(message({large, large}),
            "the largest costs of 2 groups sum to 2^60 or more, use a larger unit of cost");
}

}  // namespace
}  // namespace vernier::search
