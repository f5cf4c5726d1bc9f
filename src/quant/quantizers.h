// The quantizers of a network, by name: what recipe rules match.
//
// Every linear, embedding and convolution M has M.weight_quantizer, M.input_quantizer and
// M.output_quantizer; every attention mixer A has A.q_bmm_quantizer, A.k_bmm_quantizer and
// A.v_bmm_quantizer. Routers, norms and loose parameters have none. That a quantizer exists does
// not mean that it may be on: only the weight and input of linears, the weight of embeddings, and k
// and v may (plan.cc).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/module.h"

namespace vernier::quant {

enum class QuantizerRole { kWeight, kInput, kOutput, kQ, kK, kV };

struct Quantizer {
  std::string name;
  QuantizerRole role = QuantizerRole::kWeight;
  const model::Module* module = nullptr;       // of the first three roles
  const model::AttentionSite* site = nullptr;  // of the last three
};

// Those of the modules in network order, then those of the attention layers.
std::vector<Quantizer> quantizers_of(const model::ModuleTree& tree);

// As recipes name it in `parent_class`: "nn.Linear"; empty for a quantizer of attention.
std::string_view parent_class(const Quantizer& quantizer);

}  // namespace vernier::quant
