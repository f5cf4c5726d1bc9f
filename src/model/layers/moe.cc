#include "model/layers/moe.h"

#include <algorithm>
#include <utility>

#include "kernels/elementwise.h"
#include "kernels/grouped_linear.h"
#include "kernels/linear.h"
#include "model/layers/expert_batch.h"
#include "model/layers/residual_layer.h"

namespace vernier::model {

namespace {

std::vector<int64_t> counts_of(const kernels::ExpertGroups& groups) {
  std::vector<int64_t> counts(groups.begin.size() - 1);
  for (size_t expert = 0; expert < counts.size(); ++expert) {
    counts[expert] = groups.begin[expert + 1] - groups.begin[expert];
  }
  return counts;
}

bool all_round(std::span<const kernels::GroupWeight> groups) {
  return std::ranges::all_of(
      groups, [](const kernels::GroupWeight& group) { return group.rule.format != nullptr; });
}

}  // namespace

int64_t expert_batch_pairs(const Device* device) {
  return device == nullptr ? piece_tokens(device) : 4 * piece_tokens(device);
}

Moe::Moe(int layer, const kernels::RouterShape& shape, Weights weights, Device* device)
    : layer_(layer), shape_(shape), weights_(std::move(weights)), device_(device) {
  VERNIER_CHECK(static_cast<int64_t>(weights_.experts.size()) == shape_.n_experts);
  for (const SquaredReluMlp& expert : weights_.experts) {
    up_.push_back(expert.up.weight());
    down_.push_back(expert.down.weight());
  }
}

void Moe::forward(const LinearInput& input, std::span<const SequenceRows> /*sequences*/,
                  SiteHook* hook, AnyMatrixView y) const {
  VERNIER_CHECK(input.coded_by.format == nullptr);
  const ConstAnyMatrixView u = input.x;
  const auto [logits, routing, groups] = route(u);
  if (hook == nullptr) return run(u, routing, groups, nullptr, y);

  hook->on_routing(layer_, counts_of(groups));
  const int64_t wanted = hook->statistics_top_k(shape_.top_k, shape_.n_experts);
  const int64_t statistics_top_k = std::min(wanted, shape_.n_experts);
  if (statistics_top_k <= shape_.top_k) return run(u, routing, groups, hook, y);
  const kernels::Routing wider = statistics_routing(logits, statistics_top_k);
  run(u, wider, kernels::group_by_expert(wider, shape_.n_experts), hook, y);
  run(u, routing, groups, nullptr, y);
}

Moe::Routed Moe::route(ConstAnyMatrixView u) const {
  AnyMatrix logits(u.rows, shape_.n_experts, DType::kF32, device_);
  kernels::linear(u, weights_.gate, logits);
  kernels::Routing routing = kernels::route(shape_, logits, weights_.correction_bias);
  kernels::ExpertGroups groups = kernels::group_by_expert(routing, shape_.n_experts);
  return {std::move(logits), std::move(routing), std::move(groups)};
}

// Expert groups are left out: they may hold fewer experts than statistics want to see.
kernels::Routing Moe::statistics_routing(ConstAnyMatrixView logits, int64_t top_k) const {
  kernels::RouterShape wider = shape_;
  wider.top_k = top_k;
  wider.n_groups = 1;
  wider.top_groups = 1;
  return kernels::route(wider, logits, weights_.correction_bias);
}

void Moe::run(ConstAnyMatrixView u, const kernels::Routing& routing,
              const kernels::ExpertGroups& groups, SiteHook* hook, AnyMatrixView y) const {
  AnyMatrix routed(y.rows, y.cols, DType::kF32, device_);
  run_routed(u, routing, groups, own_experts(), hook, routed);
  weights_.shared.forward({u}, hook, y);
  kernels::add(routed, y);
}

void Moe::run_routed(ConstAnyMatrixView u, const kernels::Routing& routing,
                     const kernels::ExpertGroups& groups, const Experts& experts, SiteHook* hook,
                     AnyMatrixView y) const {
  if (!weights_.latent.has_value()) return run_experts(u, routing, groups, experts, hook, y);
  const Latent& latent = *weights_.latent;
  AnyMatrix z = new_activation(u.rows, latent.fc1.n(), device_);
  latent.fc1.forward(u, hook, z);
  AnyMatrix r(u.rows, latent.fc2.module().k, DType::kF32, device_);
  run_experts(z, routing, groups, experts, hook, r);
  latent.fc2.forward(r, hook, y);
}

void Moe::run_experts(ConstAnyMatrixView z, const kernels::Routing& routing,
                      const kernels::ExpertGroups& groups, const Experts& experts, SiteHook* hook,
                      AnyMatrixView r) const {
  fill_zero(r.data, r.device, r.rows * r.cols * r.elem_bytes());
  const int64_t max_pairs = expert_batch_pairs(device_);
  for (size_t first = 0; first < up_.size();) {
    const size_t last = batch_end(groups.begin, first, max_pairs);
    run_batch(z, routing, groups, first, last, experts, hook, r);
    first = last;
  }
}

void Moe::run_batch(ConstAnyMatrixView z, const kernels::Routing& routing,
                    const kernels::ExpertGroups& groups, size_t first, size_t last,
                    const Experts& experts, SiteHook* hook, AnyMatrixView r) const {
  const int64_t first_pair = groups.begin[first];
  const int64_t n_pairs = groups.begin[last] - first_pair;
  if (n_pairs == 0) return;
  const std::vector<int64_t> begin = begin_within(groups, first, last);
  const auto show = [&](LinearSite SquaredReluMlp::*site, ConstAnyMatrixView x) {
    if (hook == nullptr) return;
    for (size_t expert = first; expert < last; ++expert) {
      const int64_t n_tokens = begin[expert - first + 1] - begin[expert - first];
      if (n_tokens == 0) continue;
      hook->on_input((weights_.experts[expert].*site).module(),
                     x.row_range(begin[expert - first], n_tokens));
    }
  };
  const auto batch_of = [&](std::span<const kernels::GroupWeight> all) {
    return all.subspan(first, last - first);
  };

  AnyMatrix input = new_activation(n_pairs, z.cols, device_);
  kernels::gather_rows(z, groups.tokens.view().part(first_pair, n_pairs), input);
  show(&SquaredReluMlp::up, input);
  AnyMatrix inner = new_activation(n_pairs, up_.front().weight.n, device_);
  kernels::grouped_linear(input, begin, batch_of(experts.up), inner);
  // As in one expert alone (SquaredReluMlp).
  const bool maps_codes = hook == nullptr && all_round(batch_of(experts.down));
  if (!maps_codes) kernels::squared_relu(inner);
  show(&SquaredReluMlp::down, inner);
  AnyMatrix output = new_activation(n_pairs, r.cols, device_);
  kernels::grouped_linear(inner, begin, batch_of(experts.down), output,
                          maps_codes ? formats::InputMap::kSquaredRelu : formats::InputMap::kNone);
  kernels::combine_experts(output, first_pair, groups, routing, r);
}

}  // namespace vernier::model
