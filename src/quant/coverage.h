// A plan as the rows of a table: what happens to every module and what every rule did. Layers and
// experts with the same decision share a row.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quant/plan.h"

namespace vernier::quant {

struct CoverageRow {
  std::string modules;  // "backbone.layers.{1,3,6-8}.mixer.experts.*.up_proj"
  int64_t count = 0;    // modules in the row
  int64_t weights = 0;  // their parameters
  // "nvfp4", "nvfp4 sweep", "bf16"; "not quantizable" for what recipes cannot reach.
  std::string weight;
  std::string input;  // "nvfp4"; "-" where inputs are not rounded
  std::string rule;   // that decided the weight, and the input where another one did
};

// Every module of the network, in network order of the first of each row, then its KV caches (of
// which `weights` is 0 and `input` the format).
std::vector<CoverageRow> coverage(const QuantPlan& plan, const model::ModuleTree& tree);

struct RuleRow {
  std::string pattern;
  std::string action;  // "off", "on", "nvfp4", "nvfp4 static"
  std::string origin;
  int64_t matched = 0;
  int64_t decided = 0;
};

// The rules in order.
std::vector<RuleRow> rule_rows(const QuantPlan& plan);

}  // namespace vernier::quant
