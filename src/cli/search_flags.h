// The flags of `vernier search`, of which `vernier quantize --auto-quantize-bits` takes the
// defaults.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/app_fwd.h"
#include "cli/calibration.h"
#include "cli/device_flags.h"
#include "cli/rank_flags.h"

namespace vernier::cli {

struct SearchFlags {
  std::string model;
  std::string scores;  // of an earlier run; empty: measure
  std::string output;
  // budgets
  std::vector<double> bits;  // one allocation each
  double active_bits = 0;    // 0: no limit, as for the others
  double prefill_ms = 0;
  double decode_ms = 0;
  std::string gemm_table;
  // what may be chosen
  std::string candidates = "nvfp4,nvfp4_sweep,nvfp4_four_over_six,fp8,bf16";
  std::vector<std::string> candidates_for;  // "PATTERN=fp8,bf16"
  std::vector<std::string> disabled;
  std::vector<std::string> uncounted;
  std::string fixed;  // a recipe
  // how it is measured
  CalibrationFlags calibration{.size = 128};
  std::string method = "gauss-newton";
  bool all_scores = false;
  double score_tokens = 1;
  int64_t refine_trials = 8;  // a round; 0: none
  int64_t refine_rounds = 1;
  int64_t validation_size = 8;
  std::string export_arithmetic = "cuda";
  // running
  RankFlags ranks;
  DeviceFlags device;
  std::string max_memory;
  bool plan_only = false;
  bool restart = false;
};

void declare_search_flags(CLI::App& app, SearchFlags& flags);

// What the flags alone can contradict. Throws InvalidArgument naming the flag.
void check_search_flags(const SearchFlags& flags);

}  // namespace vernier::cli
