// Measured times of linears on one machine, by shape and format: what time budgets count with.
// `vernier bench --gemm-table` makes the file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "search/scores.h"

namespace vernier::search {

enum class ServingPhase { kPrefill, kDecode };

// What a step's tokens are to linears that a token visits by their share: tokens are taken to be
// spread evenly, as by a router that picks at random.
struct Traffic {
  double visited_share = 1;  // of the linears that see any token
  int64_t tokens = 0;        // that each of those sees, at least 1
};
Traffic traffic_of(double active_share, int64_t step_tokens);

// Linears [n, k] in one format; times of one of them that sees tokens, its input's rounding
// included.
struct GemmRow {
  std::string weight_format;  // "nvfp4"
  std::string input_format;   // "none" where inputs are not rounded
  int64_t n = 0;
  int64_t k = 0;
  bool is_routed = false;  // an expert, which sees few of a step's tokens and runs beside others
  int64_t prefill_tokens = 0;  // that it sees in a prefill step
  int64_t decode_tokens = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;

  double seconds(ServingPhase phase) const {
    return phase == ServingPhase::kPrefill ? prefill_seconds : decode_seconds;
  }
};

struct GemmTable {
  std::string device;          // what was measured
  int64_t prefill_tokens = 0;  // of a step
  int64_t decode_tokens = 0;
  std::vector<GemmRow> rows;

  int64_t tokens(ServingPhase phase) const {
    return phase == ServingPhase::kPrefill ? prefill_tokens : decode_tokens;
  }
  // Null where there is no such row. `candidate` may be null: left as it is.
  const GemmRow* find(int64_t n, int64_t k, bool is_routed, const Candidate* candidate) const;
  // What a group's linears take in a step, of routed experts those that see tokens. `candidate` may
  // be null. Throws InvalidArgument naming shape and format where the table has no row.
  double seconds(const ScoredGroup& group, const Candidate* candidate, ServingPhase phase) const;
};

// The formats of weights and inputs that rows tell apart.
std::string weight_format_name(const Candidate* candidate);
std::string input_format_name(const Candidate* candidate);

// Throws Environment.
void write_gemm_table(const GemmTable& table, const std::filesystem::path& path);
// Throws NotFound, or Corrupt naming the file and what is wrong.
GemmTable read_gemm_table(const std::filesystem::path& path);

}  // namespace vernier::search
