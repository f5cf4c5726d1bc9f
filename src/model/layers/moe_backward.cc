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
#include "model/layers/expert_exchange.h"
#include "model/layers/gradient_set.h"
#include "model/layers/moe.h"

namespace vernier::model {

struct Moe::Pass {
  ConstAnyMatrixView u;
  int64_t first_row;  // of all that the layer was given, that u begins with
  const kernels::Routing& routing;
  const kernels::ExpertGroups& groups;
  Gradients g_y;
  GradientHook* hook;
  std::vector<Vector<float>>& g_weights;  // of the routing's weights, for each loss

  bool wants_outputs() const { return hook != nullptr && hook->wants_outputs(); }
};

struct Moe::Tape {
  ExpertBatch batch;
  ConstAnyMatrixView input;
  AnyMatrix projected;
  AnyMatrix inner;  // squared_relu(projected)
  AnyMatrix output;
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
  if (u.rows > 0) weights_.shared.backward(u, g_y, hook, g_u);
  for (const comm::Range& rows : routed_rows(u.rows, nullptr)) {
    add_routed_gradient(u.row_range(rows.begin, rows.size()), rows.begin,
                        row_range(g_y, rows.begin, rows.size()), hook,
                        row_range(g_u, rows.begin, rows.size()));
  }
}

void Moe::add_routed_gradient(ConstAnyMatrixView u, int64_t first_row, Gradients g_y,
                              GradientHook* hook, Gradients g_u) const {
  const auto [logits, routing, groups] = route(u);
  std::vector<Vector<float>> g_weights;
  for (size_t loss = 0; loss < g_y.size(); ++loss) {
    g_weights.emplace_back(u.rows * routing.top_k, device_);
  }
  const Pass pass{u, first_row, routing, groups, g_y, hook, g_weights};
  backward_routed(pass, g_u);
  if (u.rows > 0) backward_router(pass, logits, g_u);
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
    if (n_tokens > 0) latent->fc1.forward(pass.u, nullptr, latent_z);
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
  if (ranks_.expert().size() > 1) {
    backward_experts_of_ranks(pass, z, g_r, r, g_z);
  } else {
    backward_experts(pass, z, g_r, r, g_z);
  }

  if (latent == nullptr) {
    if (n_tokens > 0) add(g_z, g_u);
    if (pass.wants_outputs()) show_experts(pass, r);
    return;
  }
  AnyMatrix y;
  if (pass.wants_outputs()) {
    y = AnyMatrix(n_tokens, latent->fc2.n(), DType::kF32, device_);
    if (n_tokens > 0) latent->fc2.forward(r, nullptr, y);
    show_experts(pass, y);
  }
  if (n_tokens == 0) return;
  latent->fc2.show(r, y, pass.g_y, pass.hook, pass.first_row);
  latent->fc1.show(pass.u, z, g_z, pass.hook, pass.first_row);
  const GradientSet part(n_losses, n_tokens, pass.u.cols, DType::kF32, device_);
  latent->fc1.backward({}, {}, g_z, nullptr, part);
  add(part, g_u);
}

void Moe::backward_experts(const Pass& pass, ConstAnyMatrixView z, Gradients g_r, AnyMatrixView r,
                           Gradients g_z) const {
  for (const ExpertBatch& batch : expert_batches(pass.groups.begin, expert_batch_pairs(device_))) {
    AnyMatrix input = new_activation(batch.n_pairs, z.cols, device_);
    kernels::gather_rows(z, pass.groups.tokens.view().part(batch.first_pair, batch.n_pairs), input);
    const Tape tape = run_batch_for_gradient(input, batch);
    kernels::combine_experts(tape.output, batch.first_pair, pass.groups, pass.routing, r);
    const GradientSet g_output =
        GradientSet::of_activation(g_r.size(), batch.n_pairs, r.cols, device_);
    const GradientSet g_input =
        GradientSet::of_activation(g_r.size(), batch.n_pairs, z.cols, device_);
    for (size_t loss = 0; loss < g_r.size(); ++loss) {
      kernels::combine_experts_backward(g_r[loss], batch.first_pair, pass.groups, pass.routing,
                                        tape.output, g_output[loss], pass.g_weights[loss]);
    }
    backward_batch(tape, pass.hook, g_output, g_input);
    for (size_t loss = 0; loss < g_r.size(); ++loss) {
      kernels::gather_rows_backward(g_input[loss], batch.first_pair, pass.groups,
                                    pass.routing.top_k, g_z[loss]);
    }
  }
}

// The exchange bounds how many pairs there are, so that the tapes of all batches may be kept.
void Moe::backward_experts_of_ranks(const Pass& pass, ConstAnyMatrixView z, Gradients g_r,
                                    AnyMatrixView r, Gradients g_z) const {
  const size_t n_losses = g_r.size();
  const int64_t n_own = pass.groups.tokens.size();
  const ExpertExchange exchange(ranks_.expert(), pass.groups, device_);
  AnyMatrix own = new_activation(n_own, z.cols, device_);
  if (n_own > 0) kernels::gather_rows(z, pass.groups.tokens, own);
  const AnyMatrix input = exchange.deliver(own);
  AnyMatrix output = new_activation(input.rows(), r.cols, device_);
  std::vector<Tape> tapes;
  for (const ExpertBatch& batch : expert_batches(exchange.begin(), expert_batch_pairs(device_))) {
    const Tape& tape = tapes.emplace_back(
        run_batch_for_gradient(input.view().row_range(batch.first_pair, batch.n_pairs), batch));
    copy_matrix(tape.output, output.view().row_range(batch.first_pair, batch.n_pairs));
  }
  const AnyMatrix returned = exchange.bring_back(output);
  if (n_own > 0) kernels::combine_experts(returned, 0, pass.groups, pass.routing, r);

  std::vector<AnyMatrix> g_output;
  const GradientSet g_input =
      GradientSet::of_activation(n_losses, input.rows(), input.cols(), device_);
  for (size_t loss = 0; loss < n_losses; ++loss) {
    AnyMatrix g_own = new_activation(n_own, r.cols, device_);
    if (n_own > 0) {
      kernels::combine_experts_backward(g_r[loss], 0, pass.groups, pass.routing, returned, g_own,
                                        pass.g_weights[loss]);
    }
    g_output.push_back(exchange.deliver(g_own));
  }
  const std::vector<AnyMatrixView> g_outputs(g_output.begin(), g_output.end());
  for (const Tape& tape : tapes) {
    backward_batch(tape, pass.hook, row_range(g_outputs, tape.batch.first_pair, tape.batch.n_pairs),
                   row_range(g_input, tape.batch.first_pair, tape.batch.n_pairs));
  }
  for (size_t loss = 0; loss < n_losses; ++loss) {
    const AnyMatrix g_own = exchange.bring_back(g_input[loss]);
    if (n_own == 0) continue;
    kernels::gather_rows_backward(g_own, 0, pass.groups, pass.routing.top_k, g_z[loss]);
  }
}

Moe::Tape Moe::run_batch_for_gradient(ConstAnyMatrixView input, const ExpertBatch& batch) const {
  const int64_t inner_width = up_.front().weight.n;
  Tape tape{.batch = batch,
            .input = input,
            .projected = new_activation(input.rows, inner_width, device_),
            .inner = new_activation(input.rows, inner_width, device_),
            .output = new_activation(input.rows, down_.front().weight.n, device_)};
  const auto of_batch = [&](const std::vector<kernels::GroupWeight>& all) {
    return std::span(all).subspan(batch.first, batch.last - batch.first);
  };
  kernels::grouped_linear(input, batch.begin, of_batch(up_), tape.projected);
  copy_matrix(tape.projected, tape.inner);
  kernels::squared_relu(tape.inner);
  kernels::grouped_linear(tape.inner, batch.begin, of_batch(down_), tape.output);
  return tape;
}

void Moe::backward_batch(const Tape& tape, GradientHook* hook, Gradients g_output,
                         Gradients g_input) const {
  const auto& [batch, input, projected, inner, output] = tape;
  const auto of_batch = [&](const std::vector<kernels::GroupWeight>& all) {
    return std::span(all).subspan(tape.batch.first, tape.batch.last - tape.batch.first);
  };
  const GradientSet g_inner =
      GradientSet::of_activation(g_output.size(), input.rows, inner.cols(), device_);
  for (size_t loss = 0; loss < g_output.size(); ++loss) {
    kernels::grouped_input_gradient(g_output[loss], batch.begin, of_batch(down_), g_inner[loss]);
  }
  show_each(hook, weights_.experts, &SquaredReluMlp::down, batch.first, batch.begin, inner, output,
            g_output);
  for (size_t loss = 0; loss < g_output.size(); ++loss) {
    kernels::squared_relu_backward(projected, g_inner[loss]);
    kernels::grouped_input_gradient(g_inner[loss], batch.begin, of_batch(up_), g_input[loss]);
  }
  show_each(hook, weights_.experts, &SquaredReluMlp::up, batch.first, batch.begin, input, projected,
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
                       std::span<const kernels::GroupWeight> down,
                       const VectorView<const int32_t>* tokens, AnyMatrixView other_y) {
    if (tokens == nullptr) {
      return run_routed(pass.u, pass.routing, pass.groups, {up, down}, nullptr, other_y);
    }
    AnyMatrix u = new_activation(tokens->size, pass.u.cols, device_);
    if (u.rows() > 0) kernels::gather_rows(pass.u, *tokens, u);
    const Routed routed = route(u);
    run_routed(u, routed.routing, routed.groups, {up, down}, nullptr, other_y);
  };
  std::vector<const Module*> up, down;
  for (const SquaredReluMlp& expert : weights_.experts) {
    up.push_back(&expert.up.module());
    down.push_back(&expert.down.module());
  }
  pass.hook->on_experts({std::move(up), std::move(down), pass.first_row, y, pass.g_y, run});
}

}  // namespace vernier::model
