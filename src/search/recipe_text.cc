// Assignments as recipes: one rule a quantizer of a chosen group, over a base that switches
// everything off.
#include <fmt/format.h>

#include "search/allocation.h"

namespace vernier::search {
namespace {

// The modules of a group as patterns: all experts of a layer are one.
std::vector<std::string> patterns_of(const ScoredGroup& group) {
  if (group.is_routed) return {group.name + ".*"};
  return group.modules;
}

std::string entry(const std::string& quantizer, std::string_view cfg, std::string_view algorithm) {
  std::string text = fmt::format("    - quantizer_name: '{}'\n      cfg: {}\n", quantizer, cfg);
  if (!algorithm.empty()) text += fmt::format("      algorithm: {}\n", algorithm);
  return text;
}

std::string entries(const std::string& pattern, const Candidate& candidate) {
  std::string text =
      entry(pattern + ".weight_quantizer", candidate.weight_cfg, candidate.algorithm);
  if (!candidate.input_cfg.empty()) {
    text += entry(pattern + ".input_quantizer", candidate.input_cfg, "");
  }
  return text;
}

quant::Rule rule(std::string pattern, const quant::QuantizerConfig& config) {
  quant::Rule rule;
  rule.pattern = std::move(pattern);
  rule.config = config;
  rule.origin = "the search";
  return rule;
}

}  // namespace

std::string recipe_text(const Scores& scores, const Assignment& assignment,
                        const std::string& description, const std::string& comment) {
  std::string text = comment;
  text += fmt::format(
      "imports:\n  base_disable_all: units/base_disable_all\nmetadata:\n  recipe_type: ptq\n"
      "  description: >\n    {}\nquantize:\n  algorithm: max\n  quant_cfg:\n    - $import: "
      "base_disable_all\n",
      description);
  for (size_t group = 0; group < assignment.size(); ++group) {
    if (assignment[group] == nullptr) continue;
    for (const std::string& pattern : patterns_of(scores.groups[group])) {
      text += entries(pattern, *assignment[group]);
    }
  }
  return text;
}

quant::Recipe assignment_recipe(const Scores& scores, const Assignment& assignment) {
  quant::Recipe recipe;
  recipe.name = "search";
  for (size_t group = 0; group < assignment.size(); ++group) {
    const Candidate* candidate = assignment[group];
    if (candidate == nullptr) continue;
    for (const std::string& pattern : patterns_of(scores.groups[group])) {
      recipe.rules.push_back(rule(pattern + ".weight_quantizer", *candidate->weight));
      if (!candidate->input) continue;
      recipe.rules.push_back(rule(pattern + ".input_quantizer", *candidate->input));
    }
  }
  return recipe;
}

}  // namespace vernier::search
