#include "runtime/generator.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "model/stage.h"
#include "runtime/embed.h"
#include "runtime/head.h"

namespace vernier::runtime {

Generator::Generator(const model::Model& model, const model::WeightSource& weights,
                     std::vector<text::TokenId> eos_ids)
    : model_(model), weights_(weights), eos_ids_(std::move(eos_ids)) {
  const comm::Range here = model::layers_here(model);
  for (int64_t layer = here.begin; layer < here.end; ++layer) {
    layers_.push_back(model.load_layer(static_cast<int>(layer), weights));
  }
}

Generation Generator::generate(const std::vector<text::TokenId>& prompt, int64_t max_tokens,
                               const SamplingOptions& sampling, uint32_t sequence,
                               const std::function<void(text::TokenId)>& on_token) const {
  check_prompt(prompt);
  Generation generation;
  const States states = new_states();
  std::span<const text::TokenId> next = prompt;
  for (int64_t step = 0; step < max_tokens; ++step) {
    const text::TokenId id = choose(advance(next, states), sampling, sequence, step);
    generation.ids.push_back(id);
    if (on_token) on_token(id);
    if (ends(id)) {
      generation.stop = StopReason::kEndOfSequence;
      break;
    }
    next = std::span(generation.ids).last(1);
  }
  return generation;
}

void Generator::check_prompt(const std::vector<text::TokenId>& prompt) const {
  if (prompt.empty()) {
    throw Error(ErrorKind::kInvalidArgument,
                "the prompt has no tokens, expected at least one to start from");
  }
  for (text::TokenId id : prompt) {
    if (id >= 0 && id < model_.vocab_size()) continue;
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("the prompt's token id {} is outside the model's vocabulary of {}", id,
                            model_.vocab_size()));
  }
}

bool Generator::ends(text::TokenId id) const {
  return std::find(eos_ids_.begin(), eos_ids_.end(), id) != eos_ids_.end();
}

Generator::States Generator::new_states() const {
  States states(layers_.size());
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    states[layer].push_back(layers_[layer]->new_state());
  }
  return states;
}

AnyMatrix Generator::advance(std::span<const text::TokenId> ids, const States& states) const {
  const auto n_tokens = static_cast<int64_t>(ids.size());
  const comm::Communicator& pipeline = model_.ranks().pipeline();
  AnyMatrix hidden(n_tokens, model_.hidden_size(), DType::kF32, weights_.device());
  if (pipeline.rank() == 0) {
    embed(model_, weights_, ids, hidden);
  } else {
    pipeline.receive(hidden, pipeline.rank() - 1);
  }
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    layers_[layer]->forward(hidden, {&n_tokens, 1}, states[layer], nullptr);
  }
  if (pipeline.rank() + 1 < pipeline.size()) pipeline.send(hidden, pipeline.rank() + 1);
  return hidden;
}

text::TokenId Generator::choose(ConstAnyMatrixView hidden, const SamplingOptions& sampling,
                                uint32_t sequence, int64_t step) const {
  const comm::Ranks& ranks = model_.ranks();
  int64_t id = 0;
  if (ranks.is_last_stage()) {
    AnyMatrix logits(1, model_.vocab_size(), DType::kF32, weights_.device());
    compute_logits(model_, weights_, hidden.row_range(hidden.rows - 1, 1), nullptr, logits);
    const int32_t chosen =
        sample(to_host(logits).values(), sampling, sequence, static_cast<uint64_t>(step));
    if (ranks.stage().rank() == 0) id = chosen;
  }
  ranks.world().sum(std::span(&id, 1));  // zeros but for one rank's
  return static_cast<text::TokenId>(id);
}

}  // namespace vernier::runtime
