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
  int64_t n_passes = 1;  // hidden-state stores alive at once
};

struct MemoryPlan {
  int64_t largest_layer_bytes = 0;  // weights of one layer as stored; mapped, not resident
  int64_t largest_tensor_bytes = 0;
  int64_t hidden_bytes = 0;  // all windows, all passes, FP32
  int64_t state_bytes = 0;   // KV, convolution and SSM states of the batch at hand
  int64_t batch_windows = 0;
  HiddenPlacement placement = HiddenPlacement::kMemory;
  int64_t anonymous_bytes = 0;  // what the process itself allocates at its peak, without the code
  int64_t forward_flops = 0;    // multiply and add counted as two
};

// `memory_limit_bytes` caps anonymous memory; 0: 60 % of what the machine has. Throws OutOfMemory
// with the numbers when not even one batch fits.
MemoryPlan plan_memory(const model::Model& model, const JobSize& job, int64_t memory_limit_bytes);

// Memory the machine could give now, in bytes (MemAvailable).
int64_t available_memory_bytes();

}  // namespace vernier::runtime
