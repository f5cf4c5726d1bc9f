// Watches a backward pass and runs every candidate of a layer beside it. Ranks that share out the
// layer each see their part, and all come to the scores of the whole.
#pragma once

#include <map>
#include <vector>

#include "comm/ranks.h"
#include "io/json_fwd.h"
#include "runtime/backward_stream.h"
#include "search/groups.h"
#include "search/quantized_weights.h"
#include "search/token_sample.h"

namespace vernier::search {

// Sums over the tokens of a group and a candidate; sensitivity.h says of what.
struct ScoreSums {
  double fisher = 0;
  double gauss_newton = 0;
  double gauss_newton_windows = 0;

  void add(const ScoreSums& other);
};

// Of one layer in one pass: by group, by candidate; absent where the candidate is none of the
// group's.
struct LayerScores {
  std::map<size_t, std::vector<std::optional<ScoreSums>>> sums;
  int64_t n_tokens = 0;  // on which candidates ran
};

// Which scores are measured; each needs a gradient of its own.
struct ScoreKinds {
  bool fisher = false;
  bool gauss_newton = true;
  bool replacement = false;  // no gradient: measured after the others

  size_t n_losses() const { return size_t{fisher} + size_t{gauss_newton}; }
};

struct ScorerOptions {
  ScoreKinds kinds;
  int64_t first_row = 0;  // tokens in all windows before these
  double score_tokens = 1;
  uint64_t seed = 0;
  PhaseTimes* phases = nullptr;
};

class Scorer : public model::GradientHook, public runtime::BackwardVisitor {
 public:
  // `candidates`, at least one: the model as each candidate makes it; `plans`: which modules that
  // concerns. All must outlive this.
  Scorer(const model::Model& model, const std::vector<ModuleGroup>& groups,
         const std::vector<quant::QuantPlan>& plans,
         const std::vector<QuantizedWeights>& candidates, const runtime::Windows& windows,
         const ScorerOptions& options);

  bool wants_outputs() const override { return true; }
  void on_linear(const model::LinearPass& pass) override;
  void on_experts(const model::ExpertsPass& pass) override;

  model::GradientHook* on_layer_begin(int layer) override;
  void on_batch_begin(int64_t first_row, int64_t n_rows) override;
  void on_batch_done() override;
  // Leaves the layer's scores in scores().
  void on_layer_done(int layer) override;

  // Of the layer that was done last.
  const LayerScores& scores() const { return scores_; }

 private:
  // What the candidates of one group do to the sampled tokens of a batch: every candidate's
  // squares, then every candidate's dots. FP32 [2 candidates, sampled tokens].
  using Errors = AnyMatrix;
  // The sampled tokens of a pass, and where they begin among those of the batch.
  struct Part {
    const TokenSample& sample;
    int64_t first;
  };
  // Of a candidate over the windows so far.
  struct Tally {
    ScoreSums sums;
    std::vector<double> by_window;
  };

  bool offers(size_t candidate, size_t group) const;
  const comm::Ranks& ranks() const { return model_.ranks(); }
  Part part_of(int64_t first_row, int64_t n_rows);
  void add_error(size_t group, size_t candidate, const Part& part, ConstAnyMatrixView y,
                 ConstAnyMatrixView moved, model::Gradients g);
  void tally(size_t group, size_t candidate, std::span<const float> squares,
             std::span<const float> dots);

  const model::Model& model_;
  const std::vector<ModuleGroup>& groups_;
  const std::vector<quant::QuantPlan>& plans_;
  const std::vector<QuantizedWeights>& candidates_;
  GroupIndex index_;
  std::vector<int32_t> window_of_;  // by row
  size_t n_windows_;
  Device* device_;
  ScorerOptions options_;
  std::vector<std::map<const model::Module*, model::LinearWeight>> weights_;  // by candidate
  int64_t batch_first_ = 0;
  int64_t batch_rows_ = 0;
  TokenSample sample_;                            // of the batch
  TokenSample part_;                              // of the last pass that saw less
  std::map<size_t, Errors> errors_;               // by group
  std::map<size_t, std::vector<Tally>> tallies_;  // by group, candidate
  LayerScores scores_;
};

io::Json to_json(const LayerScores& scores, const std::vector<ModuleGroup>& groups);
// Throws Corrupt for what to_json did not write.
LayerScores layer_scores_from_json(const io::Json& json, const std::vector<ModuleGroup>& groups);

}  // namespace vernier::search
