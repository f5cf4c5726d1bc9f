// The solver's choice against the truth: the KL of a whole assignment measured on a text, and swaps
// that keep the budget and lower it. Scores of groups add up only to second order; where errors
// meet, measuring finds what they cannot tell.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "eval/estimate.h"
#include "formats/scale_rule.h"
#include "runtime/layer_stream.h"
#include "search/allocation.h"

namespace vernier::search {

// Measures assignments of one model on one text.
class JointLoss {
 public:
  // Everything must outlive this.
  JointLoss(const model::Model& model, const model::WeightSource& weights, const Scores& scores,
            const runtime::Windows& windows, const runtime::StreamOptions& stream,
            formats::Arithmetic arithmetic, ProgressSink* progress);

  // Mean KL(model || quantized) over all positions, in nats. Streams the model once, and once more
  // for every assignment.
  std::vector<eval::Estimate> measure(const std::vector<Assignment>& assignments) const;

 private:
  const model::Model& model_;
  const model::WeightSource& weights_;
  const Scores& scores_;
  const runtime::Windows& windows_;
  runtime::StreamOptions stream_;
  formats::Arithmetic arithmetic_;
  ProgressSink* progress_;
  Statistics statistics_;
  mutable WeightAmaxes amaxes_;
};

// Fills in the scores by replacement: the true KL with one group moved and all others as they are,
// for every group and candidate.
void measure_replacement(const JointLoss& loss, Scores& scores);

struct RefineOptions {
  int64_t n_rounds = 2;
  int64_t n_trials = 8;  // assignments measured a round
};

struct Refined {
  Allocation allocation;
  eval::Estimate before;  // of the best start
  eval::Estimate after;
  int64_t n_swaps = 0;
};

// From the start with the least true loss, rounds of trials: a trial changes one group or swaps
// between two within the budget. The trials are those of which the scores promise little loss but
// of which they are least sure; the best of a round is kept where it is better. Deterministic.
// REQUIRES: a start; all keep the budget.
Refined refine(const Allocator& allocator, const Budget& budget,
               const std::vector<Allocation>& starts, const JointLoss& loss,
               const RefineOptions& options);

}  // namespace vernier::search
