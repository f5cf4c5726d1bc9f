#include "runtime/stream_steps.h"

#include <algorithm>

#include "base/check.h"

namespace vernier::runtime {

std::vector<Batch> make_batches(const Windows& windows, int64_t batch_windows,
                                const comm::Ranks& ranks) {
  VERNIER_CHECK(batch_windows > 0);
  std::vector<Batch> batches;
  int64_t row = 0;
  for (size_t first = 0; first < windows.size(); first += batch_windows) {
    Batch batch{.first_window = first, .first_row = row};
    const size_t end = std::min(windows.size(), first + static_cast<size_t>(batch_windows));
    for (size_t window = first; window < end; ++window) {
      const auto length = static_cast<int64_t>(windows[window].size());
      batch.lengths.push_back(length);
      batch.n_rows += length;
    }
    row += batch.n_rows;
    batches.push_back(std::move(batch));
  }
  // Others need not know of each other.
  if (ranks.expert().size() > 1) {
    const int64_t n_batches = comm::largest(ranks.stage(), std::ssize(batches));
    batches.resize(static_cast<size_t>(n_batches), {.first_row = row});
  }
  return batches;
}

void advise_layer(const model::Model& model, const model::WeightSource& weights, int layer,
                  void (model::WeightSource::*advise)(const model::Module&) const) {
  const int n_layers = static_cast<int>(model.tree().layers().size());
  if (layer < 0 || layer >= n_layers) return;
  for (const model::Module* module : model.tree().modules_of(layer)) (weights.*advise)(*module);
}

std::unique_ptr<model::Layer> load_layer(const model::Model& model,
                                         const model::WeightSource& weights, int layer,
                                         PhaseTimes* phases) {
  const PhaseTimer timer(phases, "wait for weights");
  return model.load_layer(layer, weights);
}

void finish_queue(Device* device, const char* phase, PhaseTimes* phases) {
  const PhaseTimer timer(phases, phase);
  if (device != nullptr) device->synchronize();
}

}  // namespace vernier::runtime
