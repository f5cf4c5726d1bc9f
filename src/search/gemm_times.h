// Times of a network's linears where they will run, measured with random weights of their shapes:
// what the file of gemm_table.h holds.
#pragma once

#include <cstdint>
#include <vector>

#include "base/progress.h"
#include "model/model.h"
#include "search/gemm_table.h"

namespace vernier::search {

// Linears of one shape in the whole network, routed experts apart from the others.
struct GemmShape {
  int64_t n = 0;
  int64_t k = 0;
  bool is_routed = false;
  int64_t count = 0;        // in the network
  int64_t n_together = 1;   // of those, that run as one grouped product: a layer's routed experts
  double active_share = 1;  // that a token visits
};

// In network order.
std::vector<GemmShape> gemm_shapes(const model::Model& model);

// One candidate for each pair of formats of weights and inputs, null (BF16) first.
std::vector<const Candidate*> distinct_formats(const std::vector<const Candidate*>& candidates);

struct GemmBenchJob {
  const model::Model& model;  // its shapes; no weight is read
  // Whose formats are measured, BF16 always among them. A format that does not divide a shape's k
  // is left out there.
  std::vector<const Candidate*> candidates;
  int64_t prefill_tokens = 4096;  // of a step
  int64_t decode_tokens = 1;
  double max_seconds = 2;  // of measuring a row; at least one measurement a phase is taken
  std::string device_name;
  Device* device = nullptr;  // null: the host
  ProgressSink* progress = nullptr;
};

// Rows by shape, then format: BF16 first, then in the order of the candidates. Throws the device's
// errors naming shape and format.
GemmTable measure_gemm_table(const GemmBenchJob& job);

}  // namespace vernier::search
