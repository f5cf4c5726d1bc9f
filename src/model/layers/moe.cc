#include "model/layers/moe.h"

#include <algorithm>
#include <utility>

#include "kernels/elementwise.h"
#include "kernels/linear.h"

namespace vernier::model {

namespace {

// Which tokens visit which expert, expert by expert: a counting sort of the routing.
struct ExpertTokens {
  std::vector<int64_t> begin;  // [n_experts + 1], expert e owns [begin[e], begin[e + 1])
  std::vector<int32_t> tokens;
  std::vector<float> weights;

  ExpertTokens(const kernels::Routing& routing, int64_t n_experts)
      : begin(static_cast<size_t>(n_experts) + 1),
        tokens(routing.experts.size()),
        weights(routing.experts.size()) {
    for (int32_t expert : routing.experts) ++begin[static_cast<size_t>(expert) + 1];
    for (size_t expert = 1; expert < begin.size(); ++expert) begin[expert] += begin[expert - 1];
    std::vector<int64_t> next = begin;
    for (size_t pair = 0; pair < routing.experts.size(); ++pair) {
      const auto place = static_cast<size_t>(next[static_cast<size_t>(routing.experts[pair])]++);
      tokens[place] = static_cast<int32_t>(static_cast<int64_t>(pair) / routing.top_k);
      weights[place] = routing.weights[pair];
    }
  }

  std::span<const int32_t> tokens_of(size_t expert) const { return part(tokens, expert); }
  std::span<const float> weights_of(size_t expert) const { return part(weights, expert); }

  std::vector<int64_t> counts() const {
    std::vector<int64_t> counts(begin.size() - 1);
    for (size_t expert = 0; expert < counts.size(); ++expert) {
      counts[expert] = begin[expert + 1] - begin[expert];
    }
    return counts;
  }

 private:
  template <class T>
  std::span<const T> part(const std::vector<T>& all, size_t expert) const {
    return std::span<const T>(all).subspan(static_cast<size_t>(begin[expert]),
                                           static_cast<size_t>(begin[expert + 1] - begin[expert]));
  }
};

}  // namespace

Moe::Moe(int layer, const kernels::RouterShape& shape, Weights weights)
    : layer_(layer), shape_(shape), weights_(std::move(weights)) {
  VERNIER_CHECK(static_cast<int64_t>(weights_.experts.size()) == shape_.n_experts);
}

void Moe::forward(ConstMatrixView u, std::span<const SequenceRows> /*sequences*/, SiteHook* hook,
                  MatrixView y) const {
  Matrix logits(u.rows, shape_.n_experts);
  kernels::linear(u, weights_.gate, logits);
  const kernels::Routing routing = kernels::route(shape_, logits, weights_.correction_bias);
  if (hook == nullptr) return run(u, routing, nullptr, y);

  hook->on_routing(layer_, ExpertTokens(routing, shape_.n_experts).counts());
  const int64_t wanted = hook->statistics_top_k(shape_.top_k, shape_.n_experts);
  const int64_t statistics_top_k = std::min(wanted, shape_.n_experts);
  if (statistics_top_k <= shape_.top_k) return run(u, routing, hook, y);
  run(u, statistics_routing(logits, statistics_top_k), hook, y);
  run(u, routing, nullptr, y);
}

// Expert groups are left out: they may hold fewer experts than statistics want to see.
kernels::Routing Moe::statistics_routing(ConstMatrixView logits, int64_t top_k) const {
  kernels::RouterShape wider = shape_;
  wider.top_k = top_k;
  wider.n_groups = 1;
  wider.top_groups = 1;
  return kernels::route(wider, logits, weights_.correction_bias);
}

void Moe::run(ConstMatrixView u, const kernels::Routing& routing, SiteHook* hook,
              MatrixView y) const {
  run_routed(u, routing, hook, y);
  Matrix shared(y.rows, y.cols);
  weights_.shared.forward(u, hook, shared);
  kernels::add(shared, y);
}

void Moe::run_routed(ConstMatrixView u, const kernels::Routing& routing, SiteHook* hook,
                     MatrixView y) const {
  if (!weights_.latent.has_value()) return run_experts(u, routing, hook, y);
  const Latent& latent = *weights_.latent;
  Matrix z(u.rows, latent.fc1.n());
  latent.fc1.forward(u, hook, z);
  Matrix r(u.rows, latent.fc1.n());
  run_experts(z, routing, hook, r);
  latent.fc2.forward(r, hook, y);
}

void Moe::run_experts(ConstMatrixView z, const kernels::Routing& routing, SiteHook* hook,
                      MatrixView r) const {
  for (int64_t row = 0; row < r.rows; ++row) std::ranges::fill(r.row(row), 0.0f);
  const ExpertTokens by_expert(routing, shape_.n_experts);
  for (size_t expert = 0; expert < weights_.experts.size(); ++expert) {
    const std::span<const int32_t> tokens = by_expert.tokens_of(expert);
    if (tokens.empty()) continue;
    const auto n_tokens = static_cast<int64_t>(tokens.size());
    Matrix input(n_tokens, z.cols);
    kernels::gather_rows(z, tokens, input);
    Matrix output(n_tokens, r.cols);
    weights_.experts[expert].forward(input, hook, output);
    kernels::scatter_add_rows(output, tokens, by_expert.weights_of(expert), r);
  }
}

}  // namespace vernier::model
