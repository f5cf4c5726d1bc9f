// What a group of linear modules may become: a format of its weights with a rule of scales, and of
// its inputs. One row of a table a candidate; "bf16" leaves a module as it is and is the reference
// of the others.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quant/recipe.h"

namespace vernier::search {

struct Candidate {
  std::string_view name;     // "nvfp4_sweep": in flags, reports and files of scores
  std::string_view summary;  // one line for help
  double bits_per_weight;
  // As a recipe's rules write it; empty: not quantized. The algorithm is a YAML flow value.
  std::string_view weight_cfg;
  std::string_view input_cfg;
  std::string_view algorithm;
  // The same as data.
  std::optional<quant::QuantizerConfig> weight;
  std::optional<quant::QuantizerConfig> input;

  bool is_quantized() const { return weight.has_value(); }
};

// "bf16" first.
std::span<const Candidate> all_candidates();
// Throws InvalidArgument listing the names.
const Candidate& find_candidate(std::string_view name);
// Comma-separated names, in the order given. Throws as find_candidate does, and for a name that
// comes twice.
std::vector<const Candidate*> parse_candidates(std::string_view names);

// The recipe that quantizes every linear module, the head included, by one candidate.
quant::Recipe uniform_recipe(const Candidate& candidate);

}  // namespace vernier::search
