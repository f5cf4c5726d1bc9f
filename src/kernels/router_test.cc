#include "kernels/router.h"

#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

using testing::ElementsAre;

float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

constexpr RouterShape kPlain{
    .n_experts = 4, .top_k = 2, .n_groups = 1, .top_groups = 1, .normalize = true, .scale = 1};

TEST(Router, WorkedByHand) {
  RouterShape shape = kPlain;
  shape.scale = 2.5f;
  const Matrix logits = matrix_of(1, 4, {0, 2, -1, 1});
  const Routing routing = route(shape, logits, std::vector<float>(4));
  EXPECT_EQ(routing.top_k, 2);
  EXPECT_THAT(routing.experts, ElementsAre(1, 3));
  const float sum = sigmoid(2) + sigmoid(1);
  EXPECT_FLOAT_EQ(routing.weights[0], 2.5f * sigmoid(2) / sum);
  EXPECT_FLOAT_EQ(routing.weights[1], 2.5f * sigmoid(1) / sum);
}

TEST(Router, BiasSteersTheChoiceNotTheWeights) {
  RouterShape shape = kPlain;
  shape.normalize = false;
  const Matrix logits = matrix_of(1, 4, {0, 2, -1, 1});
  const Routing routing = route(shape, logits, std::vector<float>{0, 0, 5, 0});
  EXPECT_THAT(routing.experts, ElementsAre(2, 1));
  EXPECT_FLOAT_EQ(routing.weights[0], sigmoid(-1));
  EXPECT_FLOAT_EQ(routing.weights[1], sigmoid(2));
}

TEST(Router, TiesGoToTheLowerIndex) {
  const Routing routing =
      route(kPlain, matrix_of(2, 4, {1, 1, 1, 1, 0, 3, 3, 3}), std::vector<float>(4));
  EXPECT_THAT(routing.experts, ElementsAre(0, 1, 1, 2));
}

TEST(Router, AllExpertsInOrder) {
  RouterShape shape = kPlain;
  shape.top_k = 4;
  const Routing routing = route(shape, matrix_of(1, 4, {1, 3, 0, 2}), std::vector<float>(4));
  EXPECT_THAT(routing.experts, ElementsAre(1, 3, 0, 2));
}

TEST(Router, OnlyTheBestGroupsCompete) {
  // Group scores are sums of two: (0.9 + 0.1) < (0.6 + 0.6), though 0.9 is the best expert.
  RouterShape shape = kPlain;
  shape.n_experts = 6;
  shape.n_groups = 2;
  const std::vector<float> bias = {0.9f, 0.1f, 0, 0.6f, 0.6f, 0};
  const Routing routing = route(shape, Matrix(1, 6), bias);
  EXPECT_THAT(routing.experts, ElementsAre(3, 4));
}

TEST(Router, NanIsChosenLastAndKeepsItsWeight) {
  RouterShape shape = kPlain;
  const Matrix logits = matrix_of(1, 4, {std::nanf(""), 1, 2, 3});
  EXPECT_THAT(route(shape, logits, std::vector<float>(4)).experts, ElementsAre(3, 2));
  shape.top_k = 4;
  const Routing all = route(shape, logits, std::vector<float>(4));
  EXPECT_THAT(all.experts, ElementsAre(3, 2, 1, 0));
  EXPECT_TRUE(std::isnan(all.weights[3]));
}

// Scores here differ by far more than the error of the sigmoid, so that the choices agree exactly;
// a weight rounds about six times, and its sum up to top_k times.
TEST(Router, AgreesWithReference) {
  const RouterShape shapes[] = {
      {1, 1, 1, 1, true, 1.0f},   {32, 4, 1, 1, true, 2.5f},   {128, 6, 1, 1, false, 2.5f},
      {64, 8, 8, 3, true, 1.0f},  {512, 22, 1, 1, true, 5.0f}, {12, 12, 3, 3, true, 1.0f},
      {16, 2, 16, 2, true, 1.0f},
  };
  for (const RouterShape& shape : shapes) {
    for (const int64_t n_tokens : {0, 1, 50}) {
      const Matrix logits = random_matrix(n_tokens, shape.n_experts, 1);
      const auto bias = random_vector(shape.n_experts, 2);
      const Routing found = route(shape, logits, bias);
      const Routing expected = ref::route(shape, logits, bias);
      ASSERT_EQ(found.experts, expected.experts);
      for (size_t i = 0; i < found.weights.size(); ++i) {
        ASSERT_NEAR(found.weights[i], expected.weights[i], 40 * kRoundoff * expected.weights[i]);
      }
    }
  }
}

TEST(Router, FollowsAPermutationOfExperts) {
  const Matrix logits = random_matrix(20, 32, 3);
  const auto bias = random_vector(32, 4);
  RouterShape shape = kPlain;
  shape.n_experts = 32;
  shape.top_k = 5;
  Matrix reversed_logits = logits;
  for (int64_t t = 0; t < 20; ++t) {
    std::reverse(reversed_logits.view().row(t).begin(), reversed_logits.view().row(t).end());
  }
  const std::vector<float> reversed_bias(bias.rbegin(), bias.rend());
  const Routing routing = route(shape, logits, bias);
  const Routing reversed = route(shape, reversed_logits, reversed_bias);
  EXPECT_EQ(routing.weights, reversed.weights);
  for (size_t i = 0; i < routing.experts.size(); ++i) {
    EXPECT_EQ(routing.experts[i], 31 - reversed.experts[i]);
  }
}

TEST(Router, DoesNotDependOnThreads) {
  const Matrix logits = random_matrix(600, 32, 5);
  RouterShape shape = kPlain;
  shape.n_experts = 32;
  expect_thread_count_independent(
      [&] { return route(shape, logits, std::vector<float>(32)).weights; });
}

using RouterDeathTest = CheckDeathTest;

TEST_F(RouterDeathTest, ChecksShapes) {
  RouterShape shape = kPlain;
  shape.n_groups = 2;
  shape.top_k = 3;
  EXPECT_DEATH(route(shape, Matrix(1, 4), std::vector<float>(4)), "top_k");
  EXPECT_DEATH(route(kPlain, Matrix(1, 5), std::vector<float>(5)), "n_experts");
}

}  // namespace
}  // namespace vernier::kernels
