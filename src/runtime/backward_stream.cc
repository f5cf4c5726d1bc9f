#include "runtime/backward_stream.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "model/layers/gradient_set.h"
#include "model/layers/linear_site.h"
#include "runtime/stream_steps.h"

namespace vernier::runtime {
namespace {

// Logits of one piece and their gradients are alive at once.
constexpr int64_t kPieceLogits = int64_t{16} << 20;

int64_t piece_tokens(int64_t vocab_size) {
  return std::clamp<int64_t>(kPieceLogits / vocab_size, 16, 4096);
}

std::vector<AnyMatrixView> split_losses(AnyMatrixView gradients, int64_t hidden_size) {
  std::vector<AnyMatrixView> parts;
  for (int64_t first = 0; first < gradients.cols; first += hidden_size) {
    parts.push_back(gradients.col_range(first, hidden_size));
  }
  return parts;
}

constexpr int kOutsideStack = -1;

// A visitor, if there is one and the layer is any of its business.
class Watcher {
 public:
  Watcher(BackwardVisitor* visitor, int layer)
      : visitor_(visitor),
        layer_(layer),
        hook_(visitor == nullptr ? nullptr : visitor->on_layer_begin(layer)) {}

  model::GradientHook* hook() const { return hook_; }
  void begin_batch(int64_t first_row, int64_t n_rows) const {
    if (hook_ != nullptr) visitor_->on_batch_begin(first_row, n_rows);
  }
  void end_batch() const {
    if (hook_ != nullptr) visitor_->on_batch_done();
  }
  void end_layer() const {
    if (hook_ != nullptr) visitor_->on_layer_done(layer_);
  }

 private:
  BackwardVisitor* visitor_;
  int layer_;
  model::GradientHook* hook_;
};

class HeadBackward {
 public:
  HeadBackward(const model::Model& model, const model::WeightSource& weights,
               std::span<const LossGradient> losses, model::GradientHook* hook)
      : model_(model),
        weights_(weights),
        head_(model.head(), weights.linear(model.head())),
        losses_(losses),
        hook_(hook) {}

  void run(int64_t first_row, ConstAnyMatrixView hidden, model::Gradients g_hidden) const {
    Device* device = hidden.device;
    AnyMatrix normed = new_activation(hidden.rows, hidden.cols, device);
    model_.final_norm(hidden, weights_, {}, normed);
    AnyMatrix logits(hidden.rows, model_.vocab_size(), DType::kF32, device);
    head_.forward(normed, nullptr, logits);
    const model::GradientSet g_logits(losses_.size(), hidden.rows, logits.cols(), DType::kF32,
                                      device);
    for (size_t loss = 0; loss < losses_.size(); ++loss) {
      losses_[loss](first_row, logits, g_logits[loss]);
    }
    const model::GradientSet g_normed(losses_.size(), hidden.rows, hidden.cols, DType::kF32,
                                      device);
    head_.backward(normed, logits, g_logits, hook_, g_normed);
    for (size_t loss = 0; loss < losses_.size(); ++loss) {
      model_.final_norm_backward(hidden, weights_, g_normed[loss], g_hidden[loss],
                                 loss == 0 ? hook_ : nullptr);
    }
  }

 private:
  const model::Model& model_;
  const model::WeightSource& weights_;
  model::LinearSite head_;
  std::span<const LossGradient> losses_;
  model::GradientHook* hook_;
};

}  // namespace

void backward_from_logits(const model::Model& model, const model::WeightSource& weights,
                          const HiddenStore& hidden, std::span<const LossGradient> losses,
                          const HiddenStore& gradients, const BackwardOptions& options) {
  const int64_t n_rows = hidden.view().rows;
  VERNIER_CHECK(gradients.view().rows == n_rows);
  VERNIER_CHECK(gradients.view().cols == std::ssize(losses) * model.hidden_size());
  const Watcher watcher(options.visitor, kOutsideStack);
  const HeadBackward head(model, weights, losses, watcher.hook());
  const int64_t step = piece_tokens(model.vocab_size());
  for (int64_t first = 0; first < n_rows; first += step) {
    const PhaseTimer timer(options.phases, "backward");
    const int64_t n = std::min(step, n_rows - first);
    watcher.begin_batch(first, n);
    hidden.read(first, n, [&](ConstAnyMatrixView rows) {
      gradients.update(first, n, [&](AnyMatrixView g_rows) {
        head.run(first, rows, split_losses(g_rows, model.hidden_size()));
      });
    });
    watcher.end_batch();
  }
  watcher.end_layer();
  weights.done_with(model.head());
}

void stream_layers_backward(const model::Model& model, const model::WeightSource& weights,
                            const Windows& windows, const LayerInputs& inputs,
                            const HiddenStore& gradients, const BackwardOptions& options) {
  const int n_layers = static_cast<int>(model.tree().layers().size());
  VERNIER_CHECK(std::ssize(inputs) == n_layers);
  const std::vector<Batch> batches = make_batches(windows, options.batch_windows);
  ProgressState state{options.label, 0, n_tokens(windows), "tokens"};
  int64_t n_passed = 0;  // tokens x layers
  advise_layer(model, weights, n_layers - 1, &model::WeightSource::will_need);
  for (int layer = n_layers - 1; layer >= 0; --layer) {
    const std::unique_ptr<model::Layer> loaded = load_layer(model, weights, layer, options.phases);
    advise_layer(model, weights, layer - 1, &model::WeightSource::will_need);
    const Watcher watcher(options.visitor, layer);
    state.label = fmt::format("{}, layer {} of {}", options.label, layer + 1, n_layers);
    for (const Batch& batch : batches) {
      const PhaseTimer timer(options.phases, "backward");
      watcher.begin_batch(batch.first_row, batch.n_rows);
      inputs[static_cast<size_t>(layer)].read(
          batch.first_row, batch.n_rows, [&](ConstAnyMatrixView rows) {
            gradients.update(batch.first_row, batch.n_rows, [&](AnyMatrixView g_rows) {
              loaded->backward(rows, batch.lengths, split_losses(g_rows, model.hidden_size()),
                               watcher.hook());
            });
          });
      watcher.end_batch();
      n_passed += batch.n_rows;
      state.done = n_passed / n_layers;
      if (options.progress != nullptr) options.progress->update(state);
    }
    finish_queue(weights.device(), "backward", options.phases);
    watcher.end_layer();
    advise_layer(model, weights, layer, &model::WeightSource::done_with);
  }
}

}  // namespace vernier::runtime
