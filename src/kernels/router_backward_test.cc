#include "kernels/router_backward.h"

#include <numeric>

#include "kernels/central_differences.h"
#include "kernels/reference.h"
#include "kernels/router_test_support.h"

namespace vernier::kernels {
namespace {

using testing::ElementsAre;

constexpr RouterShape kPlain{
    .n_experts = 4, .top_k = 2, .n_groups = 1, .top_groups = 1, .normalize = true, .scale = 1};

// The weights that route gives the chosen experts, in double.
Doubles weights_of(const RouterShape& shape, const Doubles& logits,
                   std::span<const int32_t> experts) {
  Doubles weights;
  for (int64_t begin = 0; begin < std::ssize(experts); begin += shape.top_k) {
    const int64_t row = begin / shape.top_k * shape.n_experts;
    double sum = 1e-20;
    for (int64_t i = begin; i < begin + shape.top_k; ++i) {
      weights.push_back(1 / (1 + std::exp(-logits[row + experts[i]])));
      sum += weights.back();
    }
    for (int64_t i = begin; i < begin + shape.top_k; ++i) {
      weights[i] *= shape.scale / (shape.normalize ? sum : 1);
    }
  }
  return weights;
}

TEST(RouterBackwardReference, RouteIsTheDerivative) {
  for (const bool normalize : {true, false}) {
    for (const int64_t top_k : {1, 3}) {
      const RouterShape shape{.n_experts = 7,
                              .top_k = top_k,
                              .n_groups = 1,
                              .top_groups = 1,
                              .normalize = normalize,
                              .scale = 2.5f};
      const Matrix logits = random_matrix(4, 7, 1);
      const auto experts = ref::route(shape, logits, random_vector(7, 2)).experts;
      const auto g_weights = random_vector(4 * top_k, 3);
      Matrix g_logits(4, 7);
      ref::route_backward(shape, logits, experts, g_weights, g_logits);
      expect_gradient(g_logits.values(), doubles(logits), [&](const Doubles& values) {
        return dot_product(doubles(g_weights), weights_of(shape, values, experts));
      });
    }
  }
}

// Three tokens, each twice among the pairs: r[t] = sum_i w[t, i] outputs[place].
TEST(RouterBackwardReference, CombineIsTheDerivative) {
  const std::vector<int32_t> places = {1, 4, 0, 2, 3, 5};
  const Matrix g_r = random_matrix(3, 5, 1);
  const auto weights = random_vector(6, 2);
  const Matrix outputs = random_matrix(6, 5, 3);
  Matrix g_outputs(6, 5);
  std::vector<float> g_weights(6);
  ref::combine_experts_backward(g_r, 0, places, weights, outputs, g_outputs, g_weights);
  const auto loss = [&](const Doubles& weight, const Doubles& output) {
    double sum = 0;
    for (size_t pair = 0; pair < 6; ++pair) {
      for (size_t c = 0; c < 5; ++c) {
        sum += weight[pair] * output[places[pair] * 5 + c] * g_r.values()[pair / 2 * 5 + c];
      }
    }
    return sum;
  };
  expect_gradient(g_weights, doubles(weights),
                  [&](const Doubles& values) { return loss(values, doubles(outputs)); });
  expect_gradient(g_outputs.values(), doubles(outputs),
                  [&](const Doubles& values) { return loss(doubles(weights), values); });
}

TEST(RouterBackwardReference, GatherIsTheDerivative) {
  const std::vector<int32_t> tokens = {1, 0, 1, 2};
  const Matrix g_y = random_matrix(4, 5, 1);
  Matrix g_x(3, 5);
  ref::gather_rows_backward(g_y, tokens, g_x);
  expect_gradient(g_x.values(), Doubles(15), [&](const Doubles& x) {
    double sum = 0;
    for (size_t row = 0; row < 4; ++row) {
      for (size_t c = 0; c < 5; ++c) sum += x[tokens[row] * 5 + c] * g_y.view().row(row)[c];
    }
    return sum;
  });
}

class RouterBackward : public OnEveryTargetWithRoutings {
 protected:
  Matrix route_there(const RouterShape& shape, ConstMatrixView logits,
                     const std::vector<int32_t>& experts,
                     const std::vector<float>& g_weights) const {
    const Routing routing{shape.top_k, vector(experts), vector(g_weights)};
    AnyMatrix g_logits = to_device(random_matrix(logits.rows, logits.cols, 70), device());
    route_backward(shape, to_device(logits, device()), routing, vector(g_weights), g_logits);
    return to_host(g_logits);
  }
  double relative() const { return is_bf16() ? roundoff() : 0; }
};
using RouterBackwardOnEveryTarget = RouterBackward;
VERNIER_ON_EVERY_TARGET(RouterBackwardOnEveryTarget);

TEST_P(RouterBackwardOnEveryTarget, RouteWorkedByHand) {
  // s = 1/2 each, S = 1: g_s = 2 (g_w - (3 + 1) / 2), times s (1 - s) = 1/4.
  RouterShape shape = kPlain;
  shape.scale = 2;
  EXPECT_THAT(route_there(shape, Matrix(1, 4), {1, 3}, {3, 1}).values(),
              ElementsAre(0, 0.5f, 0, -0.5f));
  shape.normalize = false;
  EXPECT_THAT(route_there(shape, Matrix(1, 4), {1, 3}, {3, 1}).values(),
              ElementsAre(0, 1.5f, 0, 0.5f));
}

// Differences of gradients of size 4 from their mean, whose sums round top_k times and whose
// factors about 16 times; the factor is at most scale * s (1 - s) / S, 1 / S with one choice.
TEST_P(RouterBackwardOnEveryTarget, RouteAgreesWithReference) {
  const RouterShape shapes[] = {
      {1, 1, 1, 1, true, 1.0f},    {32, 4, 1, 1, true, 2.5f},  {128, 6, 1, 1, false, 2.5f},
      {512, 22, 1, 1, true, 5.0f}, {12, 12, 3, 3, true, 1.0f}, {1000, 64, 50, 7, true, 1.0f},
  };
  for (const RouterShape& shape : shapes) {
    for (const int64_t n_tokens : {0, 1, 50}) {
      const Matrix logits = random_matrix(n_tokens, shape.n_experts, 1);
      const auto experts = ref::route(shape, logits, random_vector(shape.n_experts, 2)).experts;
      const auto g_weights = random_vector(n_tokens * shape.top_k, 3);
      Matrix expected(n_tokens, shape.n_experts);
      ref::route_backward(shape, logits, experts, g_weights, expected);
      const double n_roundings = static_cast<double>(shape.top_k) + 16;
      expect_near(route_there(shape, logits, experts, g_weights), expected,
                  n_roundings * kRoundoff * 4 * shape.scale);
    }
  }
}

TEST_P(RouterBackwardOnEveryTarget, FarLogitsKeepTheirGradients) {
  RouterShape shape = kPlain;
  shape.normalize = false;
  const Matrix logits = matrix_of(1, 4, {-60, 60, -20, 20});
  shape.top_k = 4;
  const std::vector<int32_t> experts = {0, 1, 2, 3};
  const std::vector<float> g_weights = {1, 1, 1, 1};
  const Matrix found = route_there(shape, logits, experts, g_weights);
  for (size_t i = 0; i < 4; ++i) {  // s (1 - s) = exp(-|x|) / (1 + exp(-|x|))^2
    const double e = std::exp(-std::abs(double{logits.values()[i]}));
    EXPECT_NEAR(found.values()[i], e / (1 + e) / (1 + e), 16 * kRoundoff * e);
  }
}

TEST_P(RouterBackwardOnEveryTarget, RouteOfStridedRows) {
  RouterShape shape = kPlain;
  shape.n_experts = 32;
  const Matrix wide = random_matrix(9, 40, 6);
  const ConstMatrixView logits = wide.view().col_range(5, 32);
  const auto experts = ref::route(shape, logits, random_vector(32, 7)).experts;
  const auto g_weights = random_vector(18, 8);
  const AnyMatrix there = to_device(wide, device());
  AnyMatrix g_logits = to_device(wide, device());
  route_backward(shape, there.view().col_range(5, 32), {2, vector(experts), vector(g_weights)},
                 vector(g_weights), g_logits.view().col_range(3, 32));
  const Matrix found = to_host(g_logits);
  EXPECT_EQ(flat(found.view().col_range(3, 32)),
            flat(route_there(shape, logits, experts, g_weights)));
  EXPECT_EQ(flat(found.view().col_range(0, 3)), flat(wide.view().col_range(0, 3)));
  EXPECT_EQ(flat(found.view().col_range(35, 5)), flat(wide.view().col_range(35, 5)));
}

struct Case {
  int64_t n_tokens, n_experts, top_k, n_channels;
};
constexpr Case kCases[] = {{0, 4, 2, 8},       {1, 4, 1, 1},      {50, 8, 3, 33},
                           {40, 64, 22, 1048}, {70, 128, 40, 64}, {30, 16, 5, 1056}};

// Pieces of the sorted pairs, as batches of experts come; together they cover all.
std::vector<int64_t> cuts_of(int64_t n_pairs) {
  return {0, n_pairs / 3, n_pairs / 3, n_pairs - n_pairs / 4, n_pairs};
}

// A dot product runs as 32 partial sums at least, on the host as one vector, n / 4 roundings at
// worst, of products below 20.
TEST_P(RouterBackwardOnEveryTarget, CombineTakesPieces) {
  for (const auto& [n_tokens, n_experts, top_k, n_channels] : kCases) {
    for (const bool is_fine : {false, true}) {  // g_r in FP32, or of the activations' type
      const Routing routing = random_routing(n_tokens, n_experts, top_k, 9);
      const ExpertGroups groups = group_by_expert(routing, n_experts);
      const int64_t n_pairs = n_tokens * top_k;
      const Matrix outputs = rounded(random_matrix(n_pairs, n_channels, 10));
      const Matrix fine = random_matrix(n_tokens, n_channels, 11);
      const Matrix g_r = is_fine ? fine : rounded(fine);
      const AnyMatrix g_r_there = is_fine ? to_device(fine, device()) : activation(fine);
      AnyMatrix there = activation(outputs);  // becomes its gradient, in place
      Vector<float> g_weights = vector(std::vector<float>(static_cast<size_t>(n_pairs)));
      const auto cuts = cuts_of(n_pairs);
      for (size_t piece = 0; piece + 1 < cuts.size(); ++piece) {
        const AnyMatrixView part =
            there.view().row_range(cuts[piece], cuts[piece + 1] - cuts[piece]);
        combine_experts_backward(g_r_there, cuts[piece], groups, routing, part, part, g_weights);
      }
      Matrix expected(n_pairs, n_channels);
      std::vector<float> expected_weights(static_cast<size_t>(n_pairs));
      ref::combine_experts_backward(g_r, 0, groups.places.to_host(), routing.weights.to_host(),
                                    outputs, expected, expected_weights);
      expect_near(to_host(there), expected, 0, 2 * kRoundoff + relative());
      const auto found_weights = g_weights.to_host();
      const double n = static_cast<double>(n_channels);
      for (size_t pair = 0; pair < expected_weights.size(); ++pair) {
        ASSERT_NEAR(found_weights[pair], expected_weights[pair],
                    (8 + n / 4) * kRoundoff * std::min(20 * n, 4 * n + 20));
      }
    }
  }
}

// Pairs outside the piece keep their values.
TEST_P(RouterBackwardOnEveryTarget, CombineOfStridedRowsLeavesOthersAlone) {
  const Routing routing = random_routing(6, 5, 2, 12);
  const ExpertGroups groups = group_by_expert(routing, 5);
  const auto places = groups.places.to_host();
  const Matrix outputs = rounded(random_matrix(5, 30, 13));
  const Matrix g_r = rounded(random_matrix(6, 40, 14));
  const Matrix start = rounded(random_matrix(5, 30, 15));
  for (const int64_t first : {3, 8}) {
    AnyMatrix g_outputs = activation(start);
    Vector<float> g_weights = vector(random_vector(12, 16));
    const AnyMatrix outputs_there = activation(outputs);
    const AnyMatrix g_r_there = activation(g_r);
    combine_experts_backward(g_r_there.view().col_range(8, 16), 4, groups, routing,
                             outputs_there.view().col_range(first, 16),
                             g_outputs.view().col_range(first, 16), g_weights);
    Matrix expected = start;
    std::vector<float> expected_weights = random_vector(12, 16);
    ref::combine_experts_backward(g_r.view().col_range(8, 16), 4, places, routing.weights.to_host(),
                                  outputs.view().col_range(first, 16),
                                  expected.view().col_range(first, 16), expected_weights);
    expect_near(to_host(g_outputs), expected, 0, 2 * kRoundoff + relative());
    for (size_t pair = 0; pair < 12; ++pair) {
      EXPECT_NEAR(g_weights.to_host()[pair], expected_weights[pair], 16 * 16 * kRoundoff);
    }
  }
}

// A sum of top_k values below 6 rounds as often.
TEST_P(RouterBackwardOnEveryTarget, GatherTakesPieces) {
  for (const auto& [n_tokens, n_experts, top_k, n_channels] : kCases) {
    const Routing routing = random_routing(n_tokens, n_experts, top_k, 9);
    const ExpertGroups groups = group_by_expert(routing, n_experts);
    const int64_t n_pairs = n_tokens * top_k;
    const Matrix g_y = rounded(random_matrix(n_pairs, n_channels, 10));
    const AnyMatrix g_y_there = activation(g_y);
    const Matrix before = random_matrix(n_tokens, n_channels, 11);
    AnyMatrix g_x = to_device(before, device());
    const auto cuts = cuts_of(n_pairs);
    for (size_t piece = 0; piece + 1 < cuts.size(); ++piece) {
      gather_rows_backward(g_y_there.view().row_range(cuts[piece], cuts[piece + 1] - cuts[piece]),
                           cuts[piece], groups, top_k, g_x);
    }
    Matrix expected = before;
    ref::gather_rows_backward(g_y, groups.tokens.to_host(), expected);
    const auto n = static_cast<double>(top_k);
    expect_near(to_host(g_x), expected, (n + 1) * 6 * (n + 1) * kRoundoff);
  }
}

TEST_P(RouterBackwardOnEveryTarget, GatherOfStridedRows) {
  const Routing routing = random_routing(6, 5, 2, 12);
  const ExpertGroups groups = group_by_expert(routing, 5);
  const Matrix g_y = rounded(random_matrix(12, 30, 13));
  const AnyMatrix g_y_there = activation(g_y);
  const Matrix before = random_matrix(6, 40, 14);
  for (const int64_t first : {3, 8}) {
    AnyMatrix g_x = to_device(before, device());
    gather_rows_backward(g_y_there.view().col_range(first, 16), 0, groups, 2,
                         g_x.view().col_range(first, 16));
    Matrix expected = before;
    ref::gather_rows_backward(g_y.view().col_range(first, 16), groups.tokens.to_host(),
                              expected.view().col_range(first, 16));
    expect_near(to_host(g_x), expected, 3 * 18 * kRoundoff);
  }
}

TEST(RouterBackwardOnTheHost, DoesNotDependOnThreads) {
  const Matrix logits = random_matrix(600, 32, 5);
  RouterShape shape = kPlain;
  shape.n_experts = 32;
  expect_thread_count_independent([&] {
    const Routing routing = route(shape, logits, std::vector<float>(32));
    const ExpertGroups groups = group_by_expert(routing, 32);
    Matrix outputs = random_matrix(1200, 40, 6);
    std::vector<float> g_weights(1200);
    combine_experts_backward(random_matrix(600, 40, 7), 0, groups, routing, outputs, outputs,
                             std::span<float>(g_weights));
    Matrix g_x(600, 40);
    gather_rows_backward(outputs, 0, groups, 2, g_x);
    Matrix g_logits(600, 32);
    route_backward(shape, logits, routing, g_weights, g_logits);
    std::vector<float> all = flat(g_x);
    all.insert(all.end(), g_logits.values().begin(), g_logits.values().end());
    return all;
  });
}

using RouterBackwardDeathTest = CheckDeathTest;

TEST_F(RouterBackwardDeathTest, ChecksShapes) {
  const Matrix logits(1, 4);
  Matrix g_logits(1, 4);
  const Routing routing = route(kPlain, logits, std::vector<float>(4));
  EXPECT_DEATH(route_backward(kPlain, logits, routing, std::vector<float>(3), g_logits),
               "g_weights");
  const ExpertGroups groups = group_by_expert(routing, 4);
  Matrix g_x(1, 3);
  EXPECT_DEATH(gather_rows_backward(Matrix(2, 3), 1, groups, 2, g_x), "groups.tokens");
}

}  // namespace
}  // namespace vernier::kernels
