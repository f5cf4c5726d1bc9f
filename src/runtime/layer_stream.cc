#include "runtime/layer_stream.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/error.h"
#include "kernels/linear.h"
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

void embed_all(const model::Model& model, const model::WeightSource& weights,
               const Windows& windows, const HiddenStore& hidden) {
  const model::LinearWeight table = weights.linear(model.embedding());
  int64_t row = 0;
  for (const std::vector<text::TokenId>& window : windows) {
    const auto length = static_cast<int64_t>(window.size());
    hidden.update(row, length,
                  [&](AnyMatrixView rows) { kernels::embed(window, table.packed, rows); });
    row += length;
  }
  weights.done_with(model.embedding());
}

void run_batch(const model::Layer& layer, const Batch& batch, const HiddenStore& hidden,
               const HiddenStore* input, model::SiteHook* hook) {
  std::vector<std::unique_ptr<model::LayerState>> states;
  for (size_t sequence = 0; sequence < batch.lengths.size(); ++sequence) {
    states.push_back(layer.new_state());
  }
  hidden.update(batch.first_row, batch.n_rows, [&](AnyMatrixView rows) {
    if (input != nullptr) input->write(batch.first_row, rows);
    layer.forward(rows, batch.lengths, states, hook);
  });
}

}  // namespace

int64_t n_tokens(const Windows& windows) {
  int64_t total = 0;
  for (const auto& window : windows) total += static_cast<int64_t>(window.size());
  return total;
}

HiddenStore stream_layers(const model::Model& model, const model::WeightSource& weights,
                          const Windows& windows, const StreamOptions& options) {
  check_ids(windows, model.vocab_size());
  const int64_t tokens = n_tokens(windows);
  const std::vector<Batch> batches = make_batches(windows, options.batch_windows);
  const int n_layers = static_cast<int>(model.tree().layers().size());

  HiddenStore hidden(tokens, model.hidden_size(), options.placement, options.spill_directory,
                     weights.device());
  advise_layer(model, weights, 0, &model::WeightSource::will_need);
  {
    const PhaseTimer timer(options.phases, "embed");
    embed_all(model, weights, windows, hidden);
  }
  // Tokens through one layer count as a share of as many through all of them.
  ProgressState state{options.label, 0, tokens, "tokens"};
  int64_t n_passed = 0;  // tokens x layers
  for (int layer = 0; layer < n_layers; ++layer) {
    const std::unique_ptr<model::Layer> loaded = load_layer(model, weights, layer, options.phases);
    advise_layer(model, weights, layer + 1, &model::WeightSource::will_need);
    state.label = fmt::format("{}, layer {} of {}", options.label, layer + 1, n_layers);
    const HiddenStore* input =
        options.inputs == nullptr ? nullptr : &options.inputs->at(static_cast<size_t>(layer));
    for (const Batch& batch : batches) {
      const PhaseTimer timer(options.phases, "forward");
      run_batch(*loaded, batch, hidden, input, options.hook);
      n_passed += batch.n_rows;
      state.done = n_passed / n_layers;
      if (options.progress != nullptr) options.progress->update(state);
    }
    finish_queue(weights.device(), "forward", options.phases);
    if (options.visitor != nullptr) options.visitor->on_layer_done(layer);
    advise_layer(model, weights, layer, &model::WeightSource::done_with);
  }
  return hidden;
}

}  // namespace vernier::runtime
