// Text generation with all layers loaded (mapped weights count as loaded). Ranks generate together;
// replicas of data parallelism do the same.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/model.h"
#include "runtime/sampler.h"
#include "text/tokenizer.h"

namespace vernier::runtime {

enum class StopReason { kLength, kEndOfSequence };

struct Generation {
  std::vector<text::TokenId> ids;  // without the prompt; a final end-of-sequence id is included
  StopReason stop = StopReason::kLength;
};

class Generator {
 public:
  // `eos_ids` end a sequence. The model and the weights must outlive the generator.
  Generator(const model::Model& model, const model::WeightSource& weights,
            std::vector<text::TokenId> eos_ids);

  // Up to `max_tokens` new tokens. `on_token` (may be empty) sees each as it is chosen; `sequence`
  // numbers the random stream. Throws InvalidArgument for an empty prompt or an id outside the
  // vocabulary.
  Generation generate(const std::vector<text::TokenId>& prompt, int64_t max_tokens,
                      const SamplingOptions& sampling, uint32_t sequence,
                      const std::function<void(text::TokenId)>& on_token) const;

 private:
  // Of one sequence: a list of one for each layer, as Layer::forward takes it.
  using States = std::vector<std::vector<std::unique_ptr<model::LayerState>>>;

  void check_prompt(const std::vector<text::TokenId>& prompt) const;
  bool ends(text::TokenId id) const;
  States new_states() const;
  // Runs tokens through this stage's layers, and on to the next stage.
  AnyMatrix advance(std::span<const text::TokenId> ids, const States& states) const;
  // The token that follows the last row, the same on all ranks: the last stage chooses.
  text::TokenId choose(ConstAnyMatrixView hidden, const SamplingOptions& sampling,
                       uint32_t sequence, int64_t step) const;

  const model::Model& model_;
  const model::WeightSource& weights_;
  std::vector<text::TokenId> eos_ids_;
  std::vector<std::unique_ptr<model::Layer>> layers_;  // of this rank's stage
};

}  // namespace vernier::runtime
