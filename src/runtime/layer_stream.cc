#include "runtime/layer_stream.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/error.h"
#include "model/stage.h"
#include "runtime/embed.h"
#include "runtime/stream_steps.h"

namespace vernier::runtime {
namespace {

void check_ids(const Windows& windows, int64_t vocab_size) {
  for (size_t window = 0; window < windows.size(); ++window) {
    for (text::TokenId id : windows[window]) {
      if (id >= 0 && id < vocab_size) continue;
      throw Error(ErrorKind::kInvalidArgument,
                  fmt::format("window {}: token id {} is outside the model's vocabulary of {}",
                              window, id, vocab_size));
    }
  }
}

// One pass of a rank's windows through its stage of the network.
class Pass {
 public:
  Pass(const model::Model& model, const model::WeightSource& weights, const Windows& windows,
       const StreamOptions& options)
      : model_(model),
        weights_(weights),
        windows_(windows),
        options_(options),
        layers_(model::layers_here(model)),
        batches_(make_batches(windows, options.batch_windows, model.ranks())),
        hidden_(n_tokens(windows), model.hidden_size(), options.placement, options.spill_directory,
                weights.device()),
        progress_{options.label, 0, n_tokens(windows), "tokens"} {}

  HiddenStore run() {
    advise_layer(model_, weights_, first_layer(), &model::WeightSource::will_need);
    options_.is_batch_major ? run_batch_by_batch() : run_layer_by_layer();
    return std::move(hidden_);
  }

 private:
  const comm::Communicator& pipeline() const { return model_.ranks().pipeline(); }
  int first_layer() const { return static_cast<int>(layers_.begin); }
  int end_layer() const { return static_cast<int>(layers_.end); }

  void run_layer_by_layer() {
    for (const Batch& batch : batches_) take_in(batch);
    weights_.done_with(model_.embedding());
    for (int layer = first_layer(); layer < end_layer(); ++layer) {
      const std::unique_ptr<model::Layer> loaded =
          load_layer(model_, weights_, layer, options_.phases);
      if (layer + 1 < end_layer()) {
        advise_layer(model_, weights_, layer + 1, &model::WeightSource::will_need);
      }
      for (const Batch& batch : batches_) run_batch(*loaded, layer, batch);
      finish_layer(layer);
    }
    for (const Batch& batch : batches_) hand_on(batch);
  }

  void run_batch_by_batch() {
    std::vector<std::unique_ptr<model::Layer>> loaded;
    for (int layer = first_layer(); layer < end_layer(); ++layer) {
      loaded.push_back(load_layer(model_, weights_, layer, options_.phases));
    }
    for (const Batch& batch : batches_) {
      take_in(batch);
      for (int layer = first_layer(); layer < end_layer(); ++layer) {
        run_batch(*loaded[static_cast<size_t>(layer - first_layer())], layer, batch);
      }
      hand_on(batch);
    }
    weights_.done_with(model_.embedding());
    for (int layer = first_layer(); layer < end_layer(); ++layer) finish_layer(layer);
  }

  // Embeds the batch's tokens, or receives their hidden states from the stage before.
  void take_in(const Batch& batch) {
    if (batch.n_rows == 0) return;
    const int stage = pipeline().rank();
    if (stage > 0) {
      const PhaseTimer timer(options_.phases, "wait for the stage before");
      return hidden_.update(batch.first_row, batch.n_rows,
                            [&](AnyMatrixView rows) { pipeline().receive(rows, stage - 1); });
    }
    const PhaseTimer timer(options_.phases, "embed");
    int64_t row = batch.first_row;
    for (size_t index = 0; index < batch.lengths.size(); ++index) {
      const auto& window = windows_[batch.first_window + index];
      hidden_.update(row, std::ssize(window),
                     [&](AnyMatrixView rows) { embed(model_, weights_, window, rows); });
      row += std::ssize(window);
    }
  }

  void hand_on(const Batch& batch) const {
    const int stage = pipeline().rank();
    if (stage + 1 == pipeline().size() || batch.n_rows == 0) return;
    const PhaseTimer timer(options_.phases, "hand over");
    hidden_.read(batch.first_row, batch.n_rows,
                 [&](ConstAnyMatrixView rows) { pipeline().send(rows, stage + 1); });
  }

  void run_batch(const model::Layer& layer, int index, const Batch& batch) {
    const PhaseTimer timer(options_.phases, "forward");
    std::vector<std::unique_ptr<model::LayerState>> states;
    for (size_t sequence = 0; sequence < batch.lengths.size(); ++sequence) {
      states.push_back(layer.new_state());
    }
    hidden_.update(batch.first_row, batch.n_rows, [&](AnyMatrixView rows) {
      if (options_.inputs != nullptr) {
        options_.inputs->at(static_cast<size_t>(index)).write(batch.first_row, rows);
      }
      layer.forward(rows, batch.lengths, states, options_.hook);
    });
    show_progress(index, batch);
  }

  // Tokens through one layer count as a share of as many through all of them.
  void show_progress(int layer, const Batch& batch) {
    const int64_t n_layers = std::ssize(model_.tree().layers());
    n_passed_ += batch.n_rows;
    if (options_.progress == nullptr) return;
    progress_.done = n_passed_ / layers_.size();
    progress_.label = fmt::format("{}, layer {} of {}", options_.label, layer + 1, n_layers);
    options_.progress->update(progress_);
  }

  void finish_layer(int layer) {
    finish_queue(weights_.device(), "forward", options_.phases);
    if (options_.visitor != nullptr) options_.visitor->on_layer_done(layer);
    advise_layer(model_, weights_, layer, &model::WeightSource::done_with);
  }

  const model::Model& model_;
  const model::WeightSource& weights_;
  const Windows& windows_;
  const StreamOptions& options_;
  comm::Range layers_;
  std::vector<Batch> batches_;
  HiddenStore hidden_;
  ProgressState progress_;
  int64_t n_passed_ = 0;  // tokens x layers
};

}  // namespace

int64_t n_tokens(const Windows& windows) {
  int64_t total = 0;
  for (const auto& window : windows) total += static_cast<int64_t>(window.size());
  return total;
}

HiddenStore stream_layers(const model::Model& model, const model::WeightSource& weights,
                          const Windows& windows, const StreamOptions& options) {
  check_ids(windows, model.vocab_size());
  return Pass(model, weights, windows, options).run();
}

}  // namespace vernier::runtime
