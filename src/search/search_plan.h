// How a search is cut into chunks of windows, and what it takes: decided before the first byte is
// read.
#pragma once

#include <cstdint>

#include "model/model.h"
#include "runtime/memory_plan.h"

namespace vernier::search {

struct SearchPlan {
  int64_t chunk_windows = 0;  // whose layer inputs are kept at once
  int64_t n_chunks = 0;
  int64_t batch_windows = 0;
  runtime::HiddenPlacement placement = runtime::HiddenPlacement::kMemory;
  int64_t kept_bytes = 0;    // of a chunk: every layer's input, the last output, the gradients
  int64_t device_bytes = 0;  // at the peak; 0: the host computes
  int64_t flops = 0;         // of all passes on all ranks, multiply and add counted as two
};

// For this rank: `n_windows` of its replica, the layers of its stage. `score_tokens`: share of
// tokens on which the candidates run. Throws OutOfMemory with the numbers when not even one window
// fits.
SearchPlan plan_search(const model::Model& model, int64_t n_windows, int64_t window_tokens,
                       int64_t n_candidates, double score_tokens,
                       const runtime::MemoryLimits& limits);

}  // namespace vernier::search
