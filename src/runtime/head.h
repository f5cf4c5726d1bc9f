// From final hidden states to logits.
#pragma once

#include "model/model.h"
#include "model/weight_source.h"
#include "tensor/any_matrix.h"

namespace vernier::runtime {

// logits [tokens, vocab_size] of hidden [tokens, hidden_size], both FP32 where the weights are:
// final norm, then the head with its input rule. `hook` (may be null) sees the head's input.
void compute_logits(const model::Model& model, const model::WeightSource& weights,
                    ConstAnyMatrixView hidden, model::SiteHook* hook, AnyMatrixView logits);

}  // namespace vernier::runtime
