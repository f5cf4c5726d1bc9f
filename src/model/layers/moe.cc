#include "model/layers/moe.h"

#include <algorithm>
#include <utility>

#include "kernels/elementwise.h"
#include "kernels/grouped_linear.h"
#include "kernels/linear.h"
#include "model/layers/expert_exchange.h"
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

Moe::Moe(int layer, const kernels::RouterShape& shape, Weights weights, const comm::Ranks& ranks,
         Device* device)
    : layer_(layer), shape_(shape), weights_(std::move(weights)), ranks_(ranks), device_(device) {
  VERNIER_CHECK(std::ssize(weights_.experts) * ranks.expert().size() == shape_.n_experts);
  for (const SquaredReluMlp& expert : weights_.experts) {
    up_.push_back(expert.up.weight());
    down_.push_back(expert.down.weight());
  }
}

int64_t Moe::common_pieces(int64_t n_pieces) const {
  return comm::largest(ranks_.expert(), n_pieces);
}

void Moe::forward(const LinearInput& input, std::span<const SequenceRows> /*sequences*/,
                  SiteHook* hook, AnyMatrixView y) const {
  VERNIER_CHECK(input.coded_by.format == nullptr);
  const ConstAnyMatrixView u = input.x;
  if (u.rows > 0) weights_.shared.forward({u}, hook, y);
  for (const comm::Range& rows : routed_rows(u.rows, hook)) {
    add_routed(u.row_range(rows.begin, rows.size()), hook, y.row_range(rows.begin, rows.size()));
  }
}

// What is exchanged at once is bounded as what runs at once is.
std::vector<comm::Range> Moe::routed_rows(int64_t n_rows, SiteHook* hook) const {
  const comm::Range own = comm::part_of(n_rows, ranks_.place().tensor);
  if (ranks_.expert().size() == 1) {
    return own.size() > 0 ? std::vector{own} : std::vector<comm::Range>();
  }
  const int64_t top_k = std::max(shape_.top_k, statistics_top_k(hook));
  const int64_t n_most = std::max<int64_t>(expert_batch_pairs(device_) / top_k, 1);
  const int64_t n_runs = comm::largest(ranks_.expert(), (own.size() + n_most - 1) / n_most);
  std::vector<comm::Range> runs;
  for (int64_t run = 0; run < n_runs; ++run) {
    runs.push_back({std::min(own.begin + run * n_most, own.end),
                    std::min(own.begin + (run + 1) * n_most, own.end)});
  }
  return runs;
}

int64_t Moe::statistics_top_k(SiteHook* hook) const {
  if (hook == nullptr) return shape_.top_k;
  return std::min(hook->statistics_top_k(shape_.top_k, shape_.n_experts), shape_.n_experts);
}

void Moe::add_routed(ConstAnyMatrixView u, SiteHook* hook, AnyMatrixView y) const {
  const auto [logits, routing, groups] = route(u);
  AnyMatrix routed(y.rows, y.cols, DType::kF32, device_);
  if (hook != nullptr) hook->on_routing(layer_, counts_of(groups));
  if (const int64_t top_k = statistics_top_k(hook); top_k > shape_.top_k) {
    const kernels::Routing wider = statistics_routing(logits, top_k);
    run_routed(u, wider, group(wider), own_experts(), hook, routed);
    hook = nullptr;
  }
  run_routed(u, routing, groups, own_experts(), hook, routed);
  if (u.rows > 0) kernels::add(routed, y);
}

Moe::Routed Moe::route(ConstAnyMatrixView u) const {
  AnyMatrix logits(u.rows, shape_.n_experts, DType::kF32, device_);
  if (u.rows > 0) kernels::linear(u, weights_.gate, logits);
  kernels::Routing routing = route_logits(shape_, logits);
  kernels::ExpertGroups groups = group(routing);
  return {std::move(logits), std::move(routing), std::move(groups)};
}

// Expert groups are left out: they may hold fewer experts than statistics want to see.
kernels::Routing Moe::statistics_routing(ConstAnyMatrixView logits, int64_t top_k) const {
  kernels::RouterShape wider = shape_;
  wider.top_k = top_k;
  wider.n_groups = 1;
  wider.top_groups = 1;
  return route_logits(wider, logits);
}

// Without tokens there is nothing to launch.
kernels::Routing Moe::route_logits(const kernels::RouterShape& shape,
                                   ConstAnyMatrixView logits) const {
  if (logits.rows > 0) return kernels::route(shape, logits, weights_.correction_bias);
  return {shape.top_k, Vector<int32_t>(0, device_), Vector<float>(0, device_)};
}

kernels::ExpertGroups Moe::group(const kernels::Routing& routing) const {
  if (routing.experts.size() > 0) return kernels::group_by_expert(routing, shape_.n_experts);
  return {std::vector<int64_t>(static_cast<size_t>(shape_.n_experts + 1), 0),
          Vector<int32_t>(0, device_), Vector<int32_t>(0, device_)};
}

void Moe::run_routed(ConstAnyMatrixView u, const kernels::Routing& routing,
                     const kernels::ExpertGroups& groups, const Experts& experts, SiteHook* hook,
                     AnyMatrixView y) const {
  if (!weights_.latent.has_value()) return run_experts(u, routing, groups, experts, hook, y);
  const Latent& latent = *weights_.latent;
  AnyMatrix z = new_activation(u.rows, latent.fc1.n(), device_);
  if (u.rows > 0) latent.fc1.forward(u, hook, z);
  AnyMatrix r(u.rows, latent.fc2.k(), DType::kF32, device_);
  run_experts(z, routing, groups, experts, hook, r);
  if (u.rows > 0) latent.fc2.forward(r, hook, y);
}

void Moe::run_experts(ConstAnyMatrixView z, const kernels::Routing& routing,
                      const kernels::ExpertGroups& groups, const Experts& experts, SiteHook* hook,
                      AnyMatrixView r) const {
  if (r.rows > 0) fill_zero(r.data, r.device, r.rows * r.cols * r.elem_bytes());
  if (ranks_.expert().size() > 1) {
    return run_experts_of_ranks(z, routing, groups, experts, hook, r);
  }
  for (const ExpertBatch& batch : expert_batches(groups.begin, expert_batch_pairs(device_))) {
    AnyMatrix input = new_activation(batch.n_pairs, z.cols, device_);
    kernels::gather_rows(z, groups.tokens.view().part(batch.first_pair, batch.n_pairs), input);
    AnyMatrix output = new_activation(batch.n_pairs, r.cols, device_);
    run_batch(input, batch, experts, hook, output);
    kernels::combine_experts(output, batch.first_pair, groups, routing, r);
  }
}

void Moe::run_experts_of_ranks(ConstAnyMatrixView z, const kernels::Routing& routing,
                               const kernels::ExpertGroups& groups, const Experts& experts,
                               SiteHook* hook, AnyMatrixView r) const {
  const ExpertExchange exchange(ranks_.expert(), groups, device_);
  AnyMatrix own = new_activation(groups.tokens.size(), z.cols, device_);
  if (own.rows() > 0) kernels::gather_rows(z, groups.tokens, own);
  const AnyMatrix input = exchange.deliver(own);
  AnyMatrix output = new_activation(input.rows(), r.cols, device_);
  for (const ExpertBatch& batch : expert_batches(exchange.begin(), expert_batch_pairs(device_))) {
    run_batch(input.view().row_range(batch.first_pair, batch.n_pairs), batch, experts, hook,
              output.view().row_range(batch.first_pair, batch.n_pairs));
  }
  const AnyMatrix returned = exchange.bring_back(output.view());
  if (returned.rows() > 0) kernels::combine_experts(returned, 0, groups, routing, r);
}

void Moe::run_batch(ConstAnyMatrixView input, const ExpertBatch& batch, const Experts& experts,
                    SiteHook* hook, AnyMatrixView output) const {
  const std::vector<int64_t>& begin = batch.begin;
  const auto show = [&](LinearSite SquaredReluMlp::*site, ConstAnyMatrixView x) {
    if (hook == nullptr) return;
    for (size_t expert = batch.first; expert < batch.last; ++expert) {
      const int64_t first_row = begin[expert - batch.first];
      const int64_t n_tokens = begin[expert - batch.first + 1] - first_row;
      if (n_tokens == 0) continue;
      hook->on_input((weights_.experts[expert].*site).module(), x.row_range(first_row, n_tokens));
    }
  };
  const auto batch_of = [&](std::span<const kernels::GroupWeight> all) {
    return all.subspan(batch.first, batch.last - batch.first);
  };
  show(&SquaredReluMlp::up, input);
  AnyMatrix inner = new_activation(input.rows, up_.front().weight.n, device_);
  kernels::grouped_linear(input, begin, batch_of(experts.up), inner);
  // As in one expert alone (SquaredReluMlp).
  const bool maps_codes = hook == nullptr && all_round(batch_of(experts.down));
  if (!maps_codes) kernels::squared_relu(inner);
  show(&SquaredReluMlp::down, inner);
  kernels::grouped_linear(inner, begin, batch_of(experts.down), output,
                          maps_codes ? formats::InputMap::kSquaredRelu : formats::InputMap::kNone);
}

}  // namespace vernier::model
