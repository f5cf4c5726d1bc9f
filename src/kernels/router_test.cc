#include "kernels/router.h"

#include <numeric>

#include "kernels/reference.h"
#include "kernels/router_test_support.h"

namespace vernier::kernels {
namespace {

using testing::ElementsAre;

float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

constexpr RouterShape kPlain{
    .n_experts = 4, .top_k = 2, .n_groups = 1, .top_groups = 1, .normalize = true, .scale = 1};

class Router : public OnEveryTargetWithRoutings {
 protected:
  // A routing in host memory, made there.
  struct Found {
    std::vector<int32_t> experts;
    std::vector<float> weights;
  };
  Found route_there(const RouterShape& shape, ConstMatrixView logits,
                    const std::vector<float>& bias) const {
    const Routing routing = route(shape, to_device(logits, device()), vector(bias));
    EXPECT_EQ(routing.top_k, shape.top_k);
    return {routing.experts.to_host(), routing.weights.to_host()};
  }
};
using RouterOnEveryTarget = Router;
VERNIER_ON_EVERY_TARGET(RouterOnEveryTarget);

TEST_P(RouterOnEveryTarget, WorkedByHand) {
  RouterShape shape = kPlain;
  shape.scale = 2.5f;
  const Found found = route_there(shape, matrix_of(1, 4, {0, 2, -1, 1}), std::vector<float>(4));
  EXPECT_THAT(found.experts, ElementsAre(1, 3));
  const float sum = sigmoid(2) + sigmoid(1);
  EXPECT_FLOAT_EQ(found.weights[0], 2.5f * sigmoid(2) / sum);
  EXPECT_FLOAT_EQ(found.weights[1], 2.5f * sigmoid(1) / sum);
}

TEST_P(RouterOnEveryTarget, BiasSteersTheChoiceNotTheWeights) {
  RouterShape shape = kPlain;
  shape.normalize = false;
  const Found found = route_there(shape, matrix_of(1, 4, {0, 2, -1, 1}), {0, 0, 5, 0});
  EXPECT_THAT(found.experts, ElementsAre(1, 2));
  EXPECT_FLOAT_EQ(found.weights[0], sigmoid(2));
  EXPECT_FLOAT_EQ(found.weights[1], sigmoid(-1));
}

TEST_P(RouterOnEveryTarget, TiesGoToTheLowerIndex) {
  const Found found =
      route_there(kPlain, matrix_of(2, 4, {1, 1, 1, 1, 0, 3, 3, 3}), std::vector<float>(4));
  EXPECT_THAT(found.experts, ElementsAre(0, 1, 1, 2));
}

TEST_P(RouterOnEveryTarget, TiesAcrossManyExpertsGoToTheLowerIndex) {
  RouterShape shape = kPlain;
  shape.n_experts = 100;
  shape.top_k = 40;
  std::vector<int32_t> first_forty(40);
  std::iota(first_forty.begin(), first_forty.end(), 0);
  EXPECT_EQ(route_there(shape, Matrix(1, 100), std::vector<float>(100)).experts, first_forty);
}

TEST_P(RouterOnEveryTarget, AllExpertsInOrder) {
  RouterShape shape = kPlain;
  shape.top_k = 4;
  const Found found = route_there(shape, matrix_of(1, 4, {1, 3, 0, 2}), std::vector<float>(4));
  EXPECT_THAT(found.experts, ElementsAre(0, 1, 2, 3));
}

TEST_P(RouterOnEveryTarget, OnlyTheBestGroupsCompete) {
  // Group scores are sums of two: (0.9 + 0.1) < (0.6 + 0.6), though 0.9 is the best expert.
  RouterShape shape = kPlain;
  shape.n_experts = 6;
  shape.n_groups = 2;
  const Found found = route_there(shape, Matrix(1, 6), {0.9f, 0.1f, 0, 0.6f, 0.6f, 0});
  EXPECT_THAT(found.experts, ElementsAre(3, 4));
}

TEST_P(RouterOnEveryTarget, NanIsChosenLastAndKeepsItsWeight) {
  RouterShape shape = kPlain;
  const Matrix logits = matrix_of(1, 4, {std::nanf(""), 1, 2, 3});
  EXPECT_THAT(route_there(shape, logits, std::vector<float>(4)).experts, ElementsAre(2, 3));
  shape.top_k = 4;
  shape.normalize = false;
  const Found all = route_there(shape, logits, std::vector<float>(4));
  EXPECT_THAT(all.experts, ElementsAre(0, 1, 2, 3));
  EXPECT_TRUE(std::isnan(all.weights[0]));
  EXPECT_FLOAT_EQ(all.weights[1], sigmoid(1));
}

// Scores here differ by far more than the error of the sigmoid, so that the choices agree exactly;
// a weight rounds about six times, and its sum up to top_k times.
TEST_P(RouterOnEveryTarget, AgreesWithReference) {
  const RouterShape shapes[] = {
      {1, 1, 1, 1, true, 1.0f},   {32, 4, 1, 1, true, 2.5f},     {128, 6, 1, 1, false, 2.5f},
      {64, 8, 8, 3, true, 1.0f},  {512, 22, 1, 1, true, 5.0f},   {12, 12, 3, 3, true, 1.0f},
      {16, 2, 16, 2, true, 1.0f}, {1000, 64, 50, 7, true, 1.0f}, {2500, 3, 1, 1, true, 1.0f},
  };
  for (const RouterShape& shape : shapes) {
    for (const int64_t n_tokens : {0, 1, 50}) {
      const Matrix logits = random_matrix(n_tokens, shape.n_experts, 1);
      const auto bias = random_vector(shape.n_experts, 2);
      const Found found = route_there(shape, logits, bias);
      const ref::Choice expected = ref::route(shape, logits, bias);
      ASSERT_EQ(found.experts, expected.experts);
      for (size_t i = 0; i < found.weights.size(); ++i) {
        ASSERT_NEAR(found.weights[i], expected.weights[i], 100 * kRoundoff * expected.weights[i]);
      }
    }
  }
}

TEST_P(RouterOnEveryTarget, LogitsMayBeStrided) {
  const Matrix wide = random_matrix(9, 40, 6);
  const AnyMatrix there = to_device(wide, device());
  const ConstMatrixView logits = wide.view().col_range(5, 32);
  RouterShape shape = kPlain;
  shape.n_experts = 32;
  const auto bias = random_vector(32, 7);
  const Routing routing = route(shape, there.view().col_range(5, 32), vector(bias));
  EXPECT_EQ(routing.experts.to_host(), ref::route(shape, logits, bias).experts);
}

TEST_P(RouterOnEveryTarget, FollowsAPermutationOfExperts) {
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
  const Found found = route_there(shape, logits, bias);
  const Found reversed = route_there(shape, reversed_logits, reversed_bias);
  for (size_t token = 0; token < 20; ++token) {
    for (size_t rank = 0; rank < 5; ++rank) {
      const size_t here = token * 5 + rank;
      const size_t there = token * 5 + 4 - rank;
      EXPECT_EQ(found.experts[here], 31 - reversed.experts[there]);
      // The sum of weights runs the other way.
      EXPECT_NEAR(found.weights[here], reversed.weights[there], 16 * kRoundoff);
    }
  }
}

TEST_P(RouterOnEveryTarget, GroupsWorkedByHand) {
  const Routing routing{2, vector<int32_t>({1, 3, 0, 1, 1, 3}), vector<float>({1, 2, 3, 4, 5, 6})};
  const ExpertGroups groups = group_by_expert(routing, 5);
  EXPECT_THAT(groups.begin, ElementsAre(0, 1, 4, 4, 6, 6));
  EXPECT_THAT(groups.tokens.to_host(), ElementsAre(1, 0, 1, 2, 0, 2));
  EXPECT_THAT(groups.places.to_host(), ElementsAre(1, 4, 0, 2, 3, 5));
}

// Every pair is where a stable sort by expert puts it. Numbers of pairs around what a device's
// warp takes at once, and experts that nobody asks for.
TEST_P(RouterOnEveryTarget, GroupsAreAStableSort) {
  struct Case {
    int64_t n_tokens, n_experts, top_k;
  };
  const Case cases[] = {{0, 4, 2},       {1, 1, 1},      {1, 512, 22},   {33, 3, 3},
                        {1024, 100, 2},  {1025, 100, 2}, {2047, 7, 1},   {700, 512, 22},
                        {40, 10000, 64}, {9001, 128, 6}, {300, 513, 300}};
  for (const auto& [n_tokens, n_experts, top_k] : cases) {
    const Routing routing = random_routing(n_tokens, n_experts, top_k, 8);
    const std::vector<int32_t> experts = routing.experts.to_host();
    const ExpertGroups groups = group_by_expert(routing, n_experts);
    std::vector<int32_t> order(experts.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t left, int32_t right) {
      return experts[static_cast<size_t>(left)] < experts[static_cast<size_t>(right)];
    });
    std::vector<int64_t> begin(static_cast<size_t>(n_experts) + 1);
    for (const int32_t expert : experts) ++begin[static_cast<size_t>(expert) + 1];
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    std::vector<int32_t> tokens(order.size()), places(order.size());
    for (size_t place = 0; place < order.size(); ++place) {
      tokens[place] = static_cast<int32_t>(order[place] / top_k);
      places[static_cast<size_t>(order[place])] = static_cast<int32_t>(place);
    }
    ASSERT_EQ(groups.begin, begin) << n_tokens << " tokens";
    ASSERT_EQ(groups.tokens.to_host(), tokens) << n_tokens << " tokens";
    ASSERT_EQ(groups.places.to_host(), places) << n_tokens << " tokens";
  }
}

// Outputs come in pieces of the sorted pairs; together they give each token its weighted sum. A sum
// of top_k terms rounds as often, and its product once each.
TEST_P(RouterOnEveryTarget, CombinesPiecesOfOutputs) {
  struct Case {
    int64_t n_tokens, n_experts, top_k, n_channels;
  };
  const Case cases[] = {{1, 4, 1, 1}, {50, 8, 3, 33}, {40, 64, 22, 1048}, {70, 128, 40, 64}};
  for (const auto& [n_tokens, n_experts, top_k, n_channels] : cases) {
    const Routing routing = random_routing(n_tokens, n_experts, top_k, 9);
    const ExpertGroups groups = group_by_expert(routing, n_experts);
    const int64_t n_pairs = n_tokens * top_k;
    const Matrix outputs = rounded(random_matrix(n_pairs, n_channels, 10));
    const AnyMatrix outputs_there = activation(outputs);
    const Matrix before = random_matrix(n_tokens, n_channels, 11);
    AnyMatrix r = to_device(before, device());
    const int64_t cuts[] = {0, n_pairs / 3, n_pairs / 3, n_pairs - n_pairs / 4, n_pairs};
    for (size_t piece = 0; piece + 1 < std::size(cuts); ++piece) {
      const int64_t first = cuts[piece];
      combine_experts(outputs_there.view().row_range(first, cuts[piece + 1] - first), first, groups,
                      routing, r);
    }
    const auto weights = routing.weights.to_host();
    const auto places = groups.places.to_host();
    Matrix expected(n_tokens, n_channels);
    for (int64_t token = 0; token < n_tokens; ++token) {
      for (int64_t c = 0; c < n_channels; ++c) {
        double sum = before.view().row(token)[c];
        for (int64_t pair = token * top_k; pair < (token + 1) * top_k; ++pair) {
          sum += double{weights[pair]} * outputs.view().row(places[pair])[c];
        }
        expected.view().row(token)[c] = static_cast<float>(sum);
      }
    }
    // Products and partial sums stay below 16 and 64.
    expect_near(to_host(r), expected, static_cast<double>(top_k) * 64 * kRoundoff);
  }
}

TEST_P(RouterOnEveryTarget, CombinesStridedRows) {
  const Routing routing = random_routing(6, 5, 2, 12);
  const ExpertGroups groups = group_by_expert(routing, 5);
  const Matrix wide = rounded(random_matrix(12, 30, 13));
  const AnyMatrix wide_there = activation(wide);
  const AnyMatrix narrow_there = activation(wide.view().col_range(3, 16));
  AnyMatrix r = to_device(random_matrix(6, 40, 14), device());
  AnyMatrix expected = to_device(to_host(r).view().col_range(7, 16), device());
  combine_experts(narrow_there, 0, groups, routing, expected);
  combine_experts(wide_there.view().col_range(3, 16), 0, groups, routing,
                  r.view().col_range(7, 16));
  EXPECT_EQ(flat(to_host(r).view().col_range(7, 16)), flat(to_host(expected)));
  EXPECT_EQ(flat(to_host(r).view().col_range(0, 7)),
            flat(random_matrix(6, 40, 14).view().col_range(0, 7)));
}

TEST(RouterOnTheHost, DoesNotDependOnThreads) {
  const Matrix logits = random_matrix(600, 32, 5);
  RouterShape shape = kPlain;
  shape.n_experts = 32;
  expect_thread_count_independent(
      [&] { return route(shape, logits, std::vector<float>(32)).weights.to_host(); });
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
