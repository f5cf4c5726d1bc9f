#include "runtime/backward_stream.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "model/layers/gradient_set.h"
#include "model/layers/linear_site.h"
#include "model/stage.h"
#include "model/whole_output.h"
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
    AnyMatrix own_logits(hidden.rows, head_.n(), DType::kF32, device);
    head_.forward(normed, nullptr, own_logits);
    const model::GradientSet g_logits(losses_.size(), hidden.rows, model_.vocab_size(), DType::kF32,
                                      device);
    const std::vector<AnyMatrixView> g_own = gradients_of(first_row, own_logits, g_logits);
    const model::GradientSet g_normed(losses_.size(), hidden.rows, hidden.cols, DType::kF32,
                                      device);
    head_.backward(normed, own_logits, g_own, hook_, g_normed);
    for (size_t loss = 0; loss < losses_.size(); ++loss) {
      model_.ranks().tensor().sum(g_normed[loss]);
      model_.final_norm_backward(hidden, weights_, g_normed[loss], g_hidden[loss],
                                 loss == 0 ? hook_ : nullptr);
    }
  }

 private:
  // Fills g_logits, which are of the whole vocabulary, and returns this rank's part of them.
  std::vector<AnyMatrixView> gradients_of(int64_t first_row, ConstAnyMatrixView own_logits,
                                          const model::GradientSet& g_logits) const {
    const comm::Communicator& tensor = model_.ranks().tensor();
    AnyMatrix whole;
    ConstAnyMatrixView logits = own_logits;
    if (tensor.size() > 1) {
      whole = AnyMatrix(own_logits.rows, model_.vocab_size(), DType::kF32, own_logits.device);
      model::gather_outputs(own_logits, head_.module(), tensor, whole);
      logits = whole;
    }
    const comm::Range here = model::own_outputs(head_.module(), tensor);
    std::vector<AnyMatrixView> own;
    for (size_t loss = 0; loss < losses_.size(); ++loss) {
      losses_[loss](first_row, logits, g_logits[loss]);
      own.push_back(g_logits[loss].col_range(here.begin, here.size()));
    }
    return own;
  }

  const model::Model& model_;
  const model::WeightSource& weights_;
  model::LinearSite head_;
  std::span<const LossGradient> losses_;
  model::GradientHook* hook_;
};

// One pass of a rank's windows back through its stage of the network.
class BackwardPass {
 public:
  BackwardPass(const model::Model& model, const model::WeightSource& weights,
               const Windows& windows, const LayerInputs& inputs, const HiddenStore& gradients,
               const BackwardOptions& options)
      : model_(model),
        weights_(weights),
        inputs_(inputs),
        gradients_(gradients),
        options_(options),
        layers_(model::layers_here(model)),
        batches_(make_batches(windows, options.batch_windows, model.ranks())),
        progress_{options.label, 0, n_tokens(windows), "tokens"} {
    VERNIER_CHECK(inputs.size() == model.tree().layers().size());
  }

  void run() {
    const auto first = static_cast<int>(layers_.begin);
    const int last = static_cast<int>(layers_.end) - 1;
    advise_layer(model_, weights_, last, &model::WeightSource::will_need);
    for (const Batch& batch : batches_) take_in(batch);
    for (int layer = last; layer >= first; --layer) run_layer(layer);
    for (const Batch& batch : batches_) hand_on(batch);
  }

 private:
  const comm::Communicator& pipeline() const { return model_.ranks().pipeline(); }

  void take_in(const Batch& batch) const {
    if (model_.ranks().is_last_stage() || batch.n_rows == 0) return;
    const PhaseTimer timer(options_.phases, "wait for the stage after");
    gradients_.update(batch.first_row, batch.n_rows,
                      [&](AnyMatrixView rows) { pipeline().receive(rows, pipeline().rank() + 1); });
  }

  void hand_on(const Batch& batch) const {
    if (model_.ranks().is_first_stage() || batch.n_rows == 0) return;
    const PhaseTimer timer(options_.phases, "hand over");
    gradients_.read(batch.first_row, batch.n_rows,
                    [&](ConstAnyMatrixView rows) { pipeline().send(rows, pipeline().rank() - 1); });
  }

  void run_layer(int index) {
    const std::unique_ptr<model::Layer> layer =
        load_layer(model_, weights_, index, options_.phases);
    if (index > layers_.begin) {
      advise_layer(model_, weights_, index - 1, &model::WeightSource::will_need);
    }
    const Watcher watcher(options_.visitor, index);
    for (const Batch& batch : batches_) {
      const PhaseTimer timer(options_.phases, "backward");
      watcher.begin_batch(batch.first_row, batch.n_rows);
      run_batch(*layer, index, batch, watcher.hook());
      watcher.end_batch();
      show_progress(index, batch);
    }
    finish_queue(weights_.device(), "backward", options_.phases);
    watcher.end_layer();
    advise_layer(model_, weights_, index, &model::WeightSource::done_with);
  }

  void run_batch(const model::Layer& layer, int index, const Batch& batch,
                 model::GradientHook* hook) const {
    inputs_[static_cast<size_t>(index)].read(
        batch.first_row, batch.n_rows, [&](ConstAnyMatrixView rows) {
          gradients_.update(batch.first_row, batch.n_rows, [&](AnyMatrixView g_rows) {
            layer.backward(rows, batch.lengths, split_losses(g_rows, model_.hidden_size()), hook);
          });
        });
  }

  // Tokens through one layer count as a share of as many through all of them.
  void show_progress(int index, const Batch& batch) {
    n_passed_ += batch.n_rows;
    if (options_.progress == nullptr) return;
    progress_.done = n_passed_ / layers_.size();
    progress_.label =
        fmt::format("{}, layer {} of {}", options_.label, index + 1, model_.tree().layers().size());
    options_.progress->update(progress_);
  }

  const model::Model& model_;
  const model::WeightSource& weights_;
  const LayerInputs& inputs_;
  const HiddenStore& gradients_;
  const BackwardOptions& options_;
  comm::Range layers_;
  std::vector<Batch> batches_;
  ProgressState progress_;
  int64_t n_passed_ = 0;  // tokens x layers
};

}  // namespace

void backward_from_logits(const model::Model& model, const model::WeightSource& weights,
                          const HiddenStore& hidden, std::span<const LossGradient> losses,
                          const HiddenStore& gradients, const BackwardOptions& options) {
  if (!model.ranks().is_last_stage()) return;
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
  BackwardPass(model, weights, windows, inputs, gradients, options).run();
}

}  // namespace vernier::runtime
