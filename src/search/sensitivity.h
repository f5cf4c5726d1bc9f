// How much a model's predictions would move if one group of modules were quantized by one
// candidate: a forward pass over the calibration text, then a backward pass layer by layer, in
// which every candidate of a layer runs beside the layer itself on the same inputs.
//
// For a group whose outputs y [tokens, channels] a candidate moves by d, with the gradient g of a
// loss at y:
//   Fisher        sum over t, k of (g_tk d_tk)^2, g of the cross-entropy summed over tokens: the
//                 published score (Model Optimizer's, with each token's own loss in place of the
//                 mean, so that longer batches weigh as much).
//   Gauss-Newton  sum over t of (sum over k of g_tk d_tk)^2, g of a random probe at the logits
//   whose
//                 covariance is the Hessian of KL(model || moved) there, diag(p) - p p^T. Its
//                 expectation over probes is d^T J^T H J d with all terms between channels, token
//                 by token; no labels are needed.
// Both are halved and divided by the number of positions: the second-order estimate of the mean KL
// in nats. Scores of different groups add up in this estimate.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/phases.h"
#include "base/progress.h"
#include "io/staging.h"
#include "model/model.h"
#include "runtime/layer_stream.h"
#include "search/candidates.h"
#include "search/groups.h"
#include "search/quantized_weights.h"
#include "search/scorer.h"

namespace vernier::search {

// Zeros where a kind was not measured.
struct Score {
  double fisher = 0;
  double gauss_newton = 0;
  // As gauss_newton, but squared after the sum over a window's tokens: with what tokens do to each
  // other, and with more noise.
  double gauss_newton_windows = 0;
  // The KL itself with this one group moved, on part of the text (refine.h): slow, for small
  // models.
  double replacement = 0;
};

// A group's candidates, in the order of the search's; absent where the group's k does not allow it.
using GroupScores = std::vector<std::optional<Score>>;

struct SensitivityJob {
  const model::Model& model;
  const model::WeightSource& weights;
  std::vector<const Candidate*> candidates;  // without bf16, whose scores are 0
  runtime::Windows windows;
  // Windows whose layer inputs are kept at once; a chunk streams the weights forward and back.
  int64_t chunk_windows = 0;  // 0: all, shared out to the replicas
  int64_t batch_windows = 32;
  runtime::HiddenPlacement placement = runtime::HiddenPlacement::kMemory;
  std::filesystem::path spill_directory = ".";
  ScoreKinds kinds;
  double score_tokens = 1;  // share of tokens on which candidates run
  uint64_t seed = 0;        // of probes and sampled tokens
  formats::Arithmetic arithmetic = formats::Arithmetic::kCuda;
  // Finished pieces: the statistics of a layer, the scores of a layer and chunk. A job goes on from
  // them with the same result. Null: nothing is kept.
  io::Journal* journal = nullptr;
  ProgressSink* progress = nullptr;
  PhaseTimes* phases = nullptr;
};

struct Sensitivity {
  Statistics statistics;            // what the candidates' input scales were made from
  std::vector<GroupScores> scores;  // by group, as make_groups orders them
};

// Deterministic: the same job gives the same scores, resumed or not. Ranks share the work as the
// model's layout says: replicas take chunks in turn, stages keep the scores of their own layers.
// Every rank keeps what it measured in a journal of its own, the first one the statistics; all
// return the same. Replicas alone give what one rank with as many chunks does, bit for bit.
Sensitivity measure_sensitivity(const SensitivityJob& job);

}  // namespace vernier::search
