// The kinds of a stack's layers, from either of the two ways a config.json spells them.
#pragma once

#include <vector>

#include "model/arch/nemotron_h/config_reader.h"
#include "model/module.h"

namespace vernier::model::nemotron_h {

// Reads `hybrid_override_pattern` ("ME*-": Mamba, MoE, attention, MLP; Megatron's stage marks '|'
// are skipped and everything from '/' on, which describes MTP depths, is left out) or the lists
// `layers_block_type` and `layer_types`. `num_hidden_layers` is informational in the releases and
// not read. Throws Corrupt for unknown kinds, an empty stack, or spellings that disagree.
std::vector<LayerKind> read_layer_kinds(const ConfigReader& reader);

}  // namespace vernier::model::nemotron_h
