#include "runtime/generator.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "kernels/linear.h"
#include "runtime/head.h"

namespace vernier::runtime {

Generator::Generator(const model::Model& model, const model::WeightSource& weights,
                     std::vector<text::TokenId> eos_ids)
    : model_(model), weights_(weights), eos_ids_(std::move(eos_ids)) {
  for (size_t layer = 0; layer < model.tree().layers().size(); ++layer) {
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
    const Matrix logits = advance(next, states);
    const text::TokenId id =
        sample(logits.values(), sampling, sequence, static_cast<uint64_t>(step));
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

Matrix Generator::advance(std::span<const text::TokenId> ids, const States& states) const {
  const auto n_tokens = static_cast<int64_t>(ids.size());
  Device* device = weights_.device();
  AnyMatrix hidden(n_tokens, model_.hidden_size(), DType::kF32, device);
  kernels::embed(ids, weights_.linear(model_.embedding()).packed, hidden);
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    layers_[layer]->forward(hidden, {&n_tokens, 1}, states[layer], nullptr);
  }
  AnyMatrix logits(1, model_.vocab_size(), DType::kF32, device);
  compute_logits(model_, weights_, hidden.view().row_range(n_tokens - 1, 1), nullptr, logits);
  return to_host(logits);
}

}  // namespace vernier::runtime
