// What the forward and the backward loop over layers share: batches of windows, and a layer's
// weights from the hint that they are needed to the layer.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/phases.h"
#include "model/model.h"
#include "runtime/layer_stream.h"

namespace vernier::runtime {

// Windows [first_window, first_window + lengths.size()) and the rows of hidden states they own.
struct Batch {
  size_t first_window = 0;
  int64_t first_row = 0;
  int64_t n_rows = 0;
  std::vector<int64_t> lengths = {};
};

// Of this rank's windows. Replicas that share out experts make as many, the last of them empty
// where a replica has fewer windows: all call this at the same time.
std::vector<Batch> make_batches(const Windows& windows, int64_t batch_windows,
                                const comm::Ranks& ranks);

// Passes a hint on for every module of a layer; a layer that is not there is passed over.
void advise_layer(const model::Model& model, const model::WeightSource& weights, int layer,
                  void (model::WeightSource::*advise)(const model::Module&) const);

std::unique_ptr<model::Layer> load_layer(const model::Model& model,
                                         const model::WeightSource& weights, int layer,
                                         PhaseTimes* phases);

// A device is behind the host by what it has queued, which is time of the phase too.
void finish_queue(Device* device, const char* phase, PhaseTimes* phases);

}  // namespace vernier::runtime
