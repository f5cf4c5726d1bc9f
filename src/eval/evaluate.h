// How far a quantized model is from the one it came from: perplexity, divergence, agreement, each
// with the standard error of its difference to the first model.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "eval/estimate.h"
#include "model/model.h"
#include "runtime/layer_stream.h"

namespace vernier::eval {

struct Candidate {
  std::string label;
  const model::Model& model;
  const model::WeightSource& weights;
};

struct Score {
  std::string label;
  double perplexity = 0;    // exp of the mean NLL over predicted positions (window - 1 each)
  double mean_nll = 0;      // nats
  Estimate nll_change;      // against the first model, nats
  Estimate kl;              // mean over every position of KL(first || this), nats
  Estimate top1_agreement;  // share of positions where both prefer the same token
};

struct EvaluateOptions {
  runtime::StreamOptions stream;
  ProgressSink* progress = nullptr;
  // Sees the logits of each model, where it runs, in pieces: rows [first_position, ...) of this
  // replica's windows laid end to end. On the last stage only.
  std::function<void(size_t candidate, int64_t first_position, ConstAnyMatrixView logits)>
      on_logits;
};

// Scores of every candidate, the first one being the baseline of the others. All run on one device
// and must share one vocabulary (throws InvalidArgument naming both sizes). Final hidden states are
// kept, logits never are. Ranks share the work as the models' layout says, replicas the windows,
// and all return the same. REQUIRES: a candidate and a window; one layout for all models.
std::vector<Score> evaluate(const std::vector<Candidate>& candidates,
                            const runtime::Windows& windows, const EvaluateOptions& options);

}  // namespace vernier::eval
