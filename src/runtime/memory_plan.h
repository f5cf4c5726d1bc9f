// How much memory, disk and time a job over all layers will take, decided before the first byte is
// read.
#pragma once

#include <cstdint>

#include "model/model.h"
#include "runtime/hidden_store.h"

namespace vernier::runtime {

struct JobSize {
  int64_t n_windows = 0;  // 0: no forward pass at all
  int64_t window_tokens = 0;
  int64_t n_passes = 1;  // models compared: so many hidden-state stores are alive at once
  // A linear's weight is something else than BF16, so that a device decodes a tile of it at a time.
  bool decodes_weights = false;
};

// Where a job runs and what it may take. Limits of 0: 60 % of the host's memory that is free, 90 %
// of the device's.
struct MemoryLimits {
  int64_t host_bytes = 0;
  Device* device = nullptr;  // null: the host computes
  int64_t device_bytes = 0;
};

// What the host and the device may give: the limit, or its default.
int64_t host_limit(const MemoryLimits& limits);
// REQUIRES: a device.
int64_t device_limit(const MemoryLimits& limits);

// A device's memory at its peak.
struct DevicePlan {
  int64_t weight_bytes = 0;  // the layer that runs and the one that is on its way; or the embedding
  int64_t hidden_bytes = 0;  // of all windows, or of a batch where they do not fit
  int64_t state_bytes = 0;   // of the batch at hand
  // Activations inside a layer, packed planes, a tile of decoded weights, logits, libraries.
  int64_t scratch_bytes = 0;
  int64_t total_bytes = 0;
};

struct MemoryPlan {
  int64_t largest_layer_bytes = 0;  // weights of one layer as stored; mapped, not resident
  int64_t largest_tensor_bytes = 0;
  int64_t hidden_bytes = 0;  // all windows, all passes, FP32
  int64_t state_bytes = 0;   // KV, convolution and SSM states of the batch at hand
  int64_t batch_windows = 0;
  HiddenPlacement placement = HiddenPlacement::kMemory;
  int64_t anonymous_bytes = 0;  // what the process itself allocates at its peak, without the code
  DevicePlan device;            // zeros where the host computes
  int64_t forward_flops = 0;    // multiply and add counted as two
};

// Throws OutOfMemory with the numbers when not even one batch fits.
MemoryPlan plan_memory(const model::Model& model, const JobSize& job, const MemoryLimits& limits);

// Memory the machine could give now, in bytes (MemAvailable).
int64_t available_memory_bytes();

}  // namespace vernier::runtime
