// What a search found, as data, and its three forms: tables for a terminal, JSON for programs, a
// page that opens offline.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "eval/estimate.h"
#include "io/json_fwd.h"
#include "search/allocation.h"

namespace vernier::search {

// One choice of candidates for all groups, and how good it is.
struct ReportedAllocation {
  std::string budget;  // "4.75 bits a weight"
  Allocation allocation;
  // Mean KL in nats on text of the calibration, where it was measured; of the solver's choice and
  // after refining it.
  std::optional<eval::Estimate> measured_kl;
  int64_t n_swaps = 0;  // that refining made
  std::string recipe_file;
};

// A point of prediction against measurement.
struct Comparison {
  std::string label;  // "nvfp4 everywhere", "5.5 bits"
  double bits = 0;
  double predicted_kl = 0;
  double measured_kl = 0;
};

struct SearchReport {
  const Scores& scores;
  const Allocator& allocator;
  ScoreKind kind = ScoreKind::kGaussNewton;
  std::vector<FrontierPoint> frontier;
  std::vector<ReportedAllocation> allocations;  // by budget, ascending
  std::vector<Comparison> comparisons;
};

// `table_width`: columns of the terminal.
std::string report_text(const SearchReport& report, int table_width);
io::Json to_json(const SearchReport& report);
// Self-contained: styles, figures (SVG) and numbers inside.
std::string report_html(const SearchReport& report);

}  // namespace vernier::search
