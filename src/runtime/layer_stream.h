// The one loop behind calibration, scoring and evaluation: for each layer, load its weights, run
// every batch of hidden states through it, hand it to a visitor, drop it. While a layer computes,
// the next one's weights are being read. Memory does not grow with the number of layers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/phases.h"
#include "base/progress.h"
#include "model/model.h"
#include "model/weight_source.h"
#include "runtime/hidden_store.h"
#include "text/tokenizer.h"

namespace vernier::runtime {

using Windows = std::vector<std::vector<text::TokenId>>;

int64_t n_tokens(const Windows& windows);

// Called between layers, when the layer's weights are still mapped; after all of them where batches
// run through a whole stage.
class LayerVisitor {
 public:
  virtual ~LayerVisitor() = default;
  virtual void on_layer_done(int layer) = 0;
};

// The input of every layer, one store a layer, each of all tokens; of other stages' layers none.
using LayerInputs = std::vector<HiddenStore>;

struct StreamOptions {
  // Windows that go through a layer together, at least 1; larger batches use the processor better.
  int64_t batch_windows = 32;
  HiddenPlacement placement = HiddenPlacement::kMemory;
  std::filesystem::path spill_directory = ".";
  model::SiteHook* hook = nullptr;
  LayerVisitor* visitor = nullptr;
  // Where to keep the input of every layer, for a backward pass; null: nowhere.
  const LayerInputs* inputs = nullptr;
  ProgressSink* progress = nullptr;
  PhaseTimes* phases = nullptr;
  // Every batch runs through all layers of a pipeline stage before the next one does, so that the
  // stages work at the same time; their weights stay. Else layer after layer, one stage after the
  // other.
  bool is_batch_major = false;
  std::string label = "running";  // what the progress line says is being done
};

// Hidden states after the last layer, [sum of window lengths, hidden_size], window after window.
// Every window starts from an empty state. Throws InvalidArgument for an id outside the vocabulary.
//
// Of several pipeline stages each runs its own layers, on what the stage before it hands over: the
// result is the last layer's on the last stage only. `windows` are those of this rank's replica;
// where experts are spread over replicas, all run as many batches, empty ones where a replica has
// fewer.
HiddenStore stream_layers(const model::Model& model, const model::WeightSource& weights,
                          const Windows& windows, const StreamOptions& options);

}  // namespace vernier::runtime
