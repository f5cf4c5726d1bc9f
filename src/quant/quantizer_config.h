// The `cfg` of a recipe entry: a format by name, or Model Optimizer's quantizer attributes, which
// must describe a format that the registry holds.
#pragma once

#include "quant/recipe.h"
#include "quant/recipe_source.h"

namespace vernier::quant {

// Throws InvalidArgument for names, keys and values that mean nothing, Unsupported for attributes
// that mean something Vernier does not do.
QuantizerConfig read_quantizer_config(const Node& cfg);

}  // namespace vernier::quant
