// Backward of the mixture of experts. Every batch of experts runs forward again and then backward
// over its own pairs; the router's gradient comes through the weights of the sum alone, since a
// choice has none.
#include <optional>
#include <vector>

#include "kernels/elementwise.h"
#include "kernels/elementwise_backward.h"
#include "kernels/grouped_linear.h"
#include "kernels/linear_backward.h"
#include "kernels/router_backward.h"
#include "model/layers/gradient_set.h"
#include "model/layers/moe.h"

namespace vernier::model {

struct Moe::Pass {
  ConstAnyMatrixView u;
  const kernels::Routing& routing;
  const kernels::ExpertGroups& groups;
  Gradients g_y;
  GradientHook* hook;
  std::vector<Vector<float>>& g_weights;  // of the routing's weights, for each loss

  bool wants_outputs() const { return hook != nullptr && hook->wants_outputs(); }
};

namespace {

// Shows each expert's own rows of a grouped product to the hook.
void show_each(GradientHook* hook, const std::vector<SquaredReluMlp>& experts,
               LinearSite SquaredReluMlp::*site, size_t first, const std::vector<int64_t>& begin,
               ConstAnyMatrixView x, ConstAnyMatrixView y, Gradients g_y) {
  if (hook == nullptr) return;
  for (size_t index = 0; index + 1 < begin.size(); ++index) {
    const int64_t n_rows = begin[index + 1] - begin[index];
    if (n_rows == 0) continue;
    const auto part = row_range(g_y, begin[index], n_rows);
    (experts[first + index].*site)
        .show(x.row_range(begin[index], n_rows), y.row_range(begin[index], n_rows), part, hook);
  }
}

}  // namespace

void Moe::backward(ConstAnyMatrixView u, std::span<const kernels::SequenceSpan> /*sequences*/,
                   Gradients g_y, GradientHook* hook, Gradients g_u) const {
  VERNIER_CHECK(ranks_.tensor().size() == 1 && ranks_.expert().size() == 1);
  const auto [logits, routing, groups] = route(u);
  std::vector<Vector<float>> g_weights;
  for (size_t loss = 0; loss < g_y.size(); ++loss) {
    g_weights.emplace_back(u.rows * routing.top_k, device_);
  }
  const Pass pass{u, routing, groups, g_y, hook, g_weights};
  weights_.shared.backward(u, g_y, hook, g_u);
  backward_routed(pass, g_u);
  backward_router(pass, logits, g_u);
}

void Moe::backward_routed(const Pass& pass, Gradients g_u) const {
  const size_t n_losses = pass.g_y.size();
  const int64_t n_tokens = pass.u.rows;
  const Latent* latent = weights_.latent.has_value() ? &*weights_.latent : nullptr;
  const int64_t width = latent != nullptr ? latent->fc1.n() : pass.u.cols;
  AnyMatrix latent_z;
  ConstAnyMatrixView z = pass.u;
  std::vector<AnyMatrixView> g_r(pass.g_y.begin(), pass.g_y.end());
  std::optional<GradientSet> latent_g_r;
  if (latent != nullptr) {
    latent_z = new_activation(n_tokens, width, device_);
    latent->fc1.forward(pass.u, nullptr, latent_z);
    z = latent_z;
    latent_g_r.emplace(n_losses, n_tokens, width, DType::kF32, device_);
    latent->fc2.backward({}, {}, pass.g_y, nullptr, *latent_g_r);
    const Gradients views = *latent_g_r;
    g_r.assign(views.begin(), views.end());
  }

  AnyMatrix r = new_zeros(n_tokens, width, device_);
  const GradientSet g_z(n_losses, n_tokens, width, DType::kF32, device_);
  for (size_t loss = 0; loss < n_losses; ++loss) {
    fill_zero(g_z[loss].data, device_, n_tokens * width * g_z[loss].elem_bytes());
  }
  for (const ExpertBatch& batch : expert_batches(pass.groups.begin, expert_batch_pairs(device_))) {
    backward_batch(pass, z, batch, g_r, r, g_z);
  }

  if (latent == nullptr) {
    add(g_z, g_u);
    if (pass.wants_outputs()) show_experts(pass, r);
    return;
  }
  AnyMatrix y;
  if (pass.wants_outputs()) {
    y = AnyMatrix(n_tokens, latent->fc2.n(), DType::kF32, device_);
    latent->fc2.forward(r, nullptr, y);
    show_experts(pass, y);
  }
  latent->fc2.show(r, y, pass.g_y, pass.hook);
  const GradientSet part(n_losses, n_tokens, pass.u.cols, DType::kF32, device_);
  latent->fc1.backward(pass.u, z, g_z, pass.hook, part);
  add(part, g_u);
}

void Moe::backward_batch(const Pass& pass, ConstAnyMatrixView z, const ExpertBatch& batch,
                         Gradients g_r, AnyMatrixView r, Gradients g_z) const {
  const int64_t first_pair = batch.first_pair;
  const int64_t n_pairs = batch.n_pairs;
  const std::vector<int64_t>& begin = batch.begin;
  const auto up = std::span(up_).subspan(batch.first, batch.last - batch.first);
  const auto down = std::span(down_).subspan(batch.first, batch.last - batch.first);
  const int64_t inner_width = up_.front().weight.n;

  AnyMatrix input = new_activation(n_pairs, z.cols, device_);
  kernels::gather_rows(z, pass.groups.tokens.view().part(first_pair, n_pairs), input);
  AnyMatrix projected = new_activation(n_pairs, inner_width, device_);
  kernels::grouped_linear(input, begin, up, projected);
  AnyMatrix inner = new_activation(n_pairs, inner_width, device_);
  copy_matrix(projected, inner);
  kernels::squared_relu(inner);
  AnyMatrix output = new_activation(n_pairs, r.cols, device_);
  kernels::grouped_linear(inner, begin, down, output);
  kernels::combine_experts(output, first_pair, pass.groups, pass.routing, r);

  const size_t n_losses = g_r.size();
  const GradientSet g_output =
      GradientSet::of_activation(n_losses, n_pairs, output.cols(), device_);
  const GradientSet g_inner = GradientSet::of_activation(n_losses, n_pairs, inner_width, device_);
  const GradientSet g_input = GradientSet::of_activation(n_losses, n_pairs, z.cols, device_);
  for (size_t loss = 0; loss < n_losses; ++loss) {
    kernels::combine_experts_backward(g_r[loss], first_pair, pass.groups, pass.routing, output,
                                      g_output[loss], pass.g_weights[loss]);
    kernels::grouped_input_gradient(g_output[loss], begin, down, g_inner[loss]);
  }
  show_each(pass.hook, weights_.experts, &SquaredReluMlp::down, batch.first, begin, inner, output,
            g_output);
  for (size_t loss = 0; loss < n_losses; ++loss) {
    kernels::squared_relu_backward(projected, g_inner[loss]);
    kernels::grouped_input_gradient(g_inner[loss], begin, up, g_input[loss]);
    kernels::gather_rows_backward(g_input[loss], first_pair, pass.groups, pass.routing.top_k,
                                  g_z[loss]);
  }
  show_each(pass.hook, weights_.experts, &SquaredReluMlp::up, batch.first, begin, input, projected,
            g_inner);
}

void Moe::backward_router(const Pass& pass, ConstAnyMatrixView logits, Gradients g_u) const {
  AnyMatrix g_logits(logits.rows, logits.cols, DType::kF32, device_);
  AnyMatrix part(pass.u.rows, pass.u.cols, DType::kF32, device_);
  for (size_t loss = 0; loss < g_u.size(); ++loss) {
    kernels::route_backward(shape_, logits, pass.routing, pass.g_weights[loss], g_logits);
    kernels::linear_input_gradient(g_logits, weights_.gate, part);
    kernels::add(part, g_u[loss]);
    const VectorView<float> g_gate = gradient_of(pass.hook, loss, weights_.name + ".gate.weight");
    if (g_gate.empty()) continue;
    kernels::linear_weight_gradient(
        g_logits, pass.u,
        {g_gate.data, logits.cols, pass.u.cols, pass.u.cols, DType::kF32, device_});
  }
}

void Moe::show_experts(const Pass& pass, ConstAnyMatrixView y) const {
  const auto run = [&](std::span<const kernels::GroupWeight> up,
                       std::span<const kernels::GroupWeight> down, VectorView<const int32_t> tokens,
                       AnyMatrixView other_y) {
    if (tokens.empty()) {
      return run_routed(pass.u, pass.routing, pass.groups, {up, down}, nullptr, other_y);
    }
    AnyMatrix u = new_activation(tokens.size, pass.u.cols, device_);
    kernels::gather_rows(pass.u, tokens, u);
    const Routed routed = route(u);
    run_routed(u, routed.routing, routed.groups, {up, down}, nullptr, other_y);
  };
  std::vector<const Module*> up, down;
  for (const SquaredReluMlp& expert : weights_.experts) {
    up.push_back(&expert.up.module());
    down.push_back(&expert.down.module());
  }
  pass.hook->on_experts({std::move(up), std::move(down), y, pass.g_y, run});
}

}  // namespace vernier::model
