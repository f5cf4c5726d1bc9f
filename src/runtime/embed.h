// From token ids to the first layer's input.
#pragma once

#include <span>

#include "model/model.h"
#include "model/weight_source.h"
#include "text/token_id.h"

namespace vernier::runtime {

// rows [tokens, hidden_size], FP32 where the weights are, become the tokens' embeddings. Tensor
// ranks share the table: each looks its own ids up, and all add up.
void embed(const model::Model& model, const model::WeightSource& weights,
           std::span<const text::TokenId> ids, AnyMatrixView rows);

}  // namespace vernier::runtime
