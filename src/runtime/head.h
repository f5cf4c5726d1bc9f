// From final hidden states to logits.
#pragma once

#include <functional>

#include "model/model.h"
#include "model/weight_source.h"
#include "runtime/hidden_store.h"
#include "tensor/any_matrix.h"

namespace vernier::runtime {

// logits [tokens, vocab_size] of hidden [tokens, hidden_size], both FP32 where the weights are:
// final norm, then the head with its input rule; all of them on every tensor rank. `hook` (may be
// null) sees the head's input.
void compute_logits(const model::Model& model, const model::WeightSource& weights,
                    ConstAnyMatrixView hidden, model::SiteHook* hook, AnyMatrixView logits);

// Shows the head's input, the final norm of all hidden states, piece by piece.
void visit_head_inputs(const model::Model& model, const model::WeightSource& weights,
                       const HiddenStore& hidden,
                       const std::function<void(ConstAnyMatrixView normed)>& visit);

}  // namespace vernier::runtime
