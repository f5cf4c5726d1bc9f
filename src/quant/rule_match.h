// The rules of a recipe carried out on the quantizers of a network: top to bottom, the last match
// wins.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "quant/quantizers.h"
#include "quant/recipe.h"

namespace vernier::quant {

// What the rules made of one quantizer.
struct Decision {
  bool is_enabled = false;  // quantizers begin off
  std::optional<QuantizerConfig> config;
  int rule = -1;  // index of the last rule that matched; -1: none did
};

// One decision a quantizer, in the same order. `n_matched[rule]` counts the quantizers each rule
// matches.
std::vector<Decision> apply_rules(const std::vector<Rule>& rules,
                                  const std::vector<Quantizer>& quantizers,
                                  std::vector<int64_t>& n_matched);

// "'*lm_head*' in recipes/units/default_disabled_quantizers.yaml".
std::string describe(const Rule& rule);

}  // namespace vernier::quant
