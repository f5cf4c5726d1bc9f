// From YAML nodes to rules and an algorithm. What is understood but not done is Unsupported, and
// says what is done instead.
#include "quant/recipe.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/check.h"
#include "quant/nearest.h"
#include "quant/quantizer_config.h"
#include "quant/recipe_source.h"

namespace vernier::quant {
namespace {

using Names = std::span<const std::string_view>;

// Classes that Model Optimizer's lists name. The last four occur in none of our networks.
constexpr std::array<std::string_view, 7> kParentClasses = {
    "nn.Linear",      "nn.Embedding",   "nn.Conv1d",   "nn.BatchNorm1d",
    "nn.BatchNorm2d", "nn.BatchNorm3d", "nn.LeakyReLU"};

// A grid of this size already tries the same amax several times per BF16 step.
constexpr double kMaxCandidates = 1024;

AlgorithmMethod read_method(const Node& node) {
  const std::string method = node.string();
  if (method == "max") return AlgorithmMethod::kMax;
  if (method == "mse") return AlgorithmMethod::kMse;
  node.fail(
      ErrorKind::kUnsupported,
      fmt::format("the algorithm \"{}\" is not available; available are max and mse", method));
}

void read_grid(const Fields& fields, Algorithm& algorithm) {
  const auto read = [&](std::string_view key, float& value) {
    const Node* node = fields.find(key);
    if (!node || node->is_null()) return;
    value = static_cast<float>(node->number());
    if (!(value > 0) || !std::isfinite(value)) {
      node->fail(fmt::format("found {}, expected a positive number", node->value().dump()));
    }
  };
  read("start_multiplier", algorithm.start);
  read("stop_multiplier", algorithm.stop);
  read("step_size", algorithm.step);
  if (algorithm.stop < algorithm.start) {
    fields.self().fail(fmt::format("stop_multiplier {} is below start_multiplier {}",
                                   algorithm.stop, algorithm.start));
  }
  if ((algorithm.stop - algorithm.start) / algorithm.step > kMaxCandidates) {
    fields.self().fail(
        fmt::format("more than {} multipliers to try; use a larger step_size", kMaxCandidates));
  }
}

Algorithm read_algorithm(const Node& node) {
  constexpr std::array<std::string_view, 5> kMseKeys = {
      "method", "fp8_scale_sweep", "start_multiplier", "stop_multiplier", "step_size"};
  if (node.is_null()) {
    node.fail(ErrorKind::kUnsupported, "null leaves quantizers without scales; write max");
  }
  if (node.is_list()) {
    node.fail(ErrorKind::kUnsupported, "several algorithms in a row are not available");
  }
  Algorithm algorithm;
  if (node.is_string()) {
    algorithm.method = read_method(node);
    return algorithm;
  }
  const Fields fields = node.fields();
  algorithm.method = read_method(fields.require("method"));
  fields.allow_only(algorithm.method == AlgorithmMethod::kMse ? Names(kMseKeys)
                                                              : Names(kMseKeys).first(1));
  if (const Node* sweep = fields.find("fp8_scale_sweep")) {
    algorithm.fp8_scale_sweep = sweep->boolean();
  }
  read_grid(fields, algorithm);
  return algorithm;
}

// One entry of quant_cfg.
Rule read_rule(const Node& node) {
  constexpr std::array<std::string_view, 5> kKnown = {"quantizer_name", "parent_class", "cfg",
                                                      "enable", "algorithm"};
  const Fields fields = node.fields();
  fields.allow_only(kKnown);
  Rule rule;
  rule.origin = node.file().name;
  rule.pattern = fields.require("quantizer_name").string();
  if (const Node* parent = fields.find("parent_class"); parent && !parent->is_null()) {
    rule.parent_class = parent->string();
    if (std::find(kParentClasses.begin(), kParentClasses.end(), rule.parent_class) ==
        kParentClasses.end()) {
      parent->fail(fmt::format("unknown class \"{}\"{}; known are {}", rule.parent_class,
                               did_you_mean(rule.parent_class, kParentClasses),
                               fmt::join(kParentClasses, ", ")));
    }
  }
  const Node* enable = fields.find("enable");
  if (enable) rule.enable = enable->boolean();
  const Node* cfg = fields.find("cfg");
  const bool has_cfg = cfg && !cfg->is_null();
  const bool is_empty = has_cfg && cfg->is_mapping() && cfg->fields().empty();
  if (!has_cfg && !enable) node.fail("an entry needs cfg, enable or both");
  if (is_empty && rule.enable) cfg->fail("an empty cfg enables nothing");
  if (has_cfg && !is_empty) rule.config = read_quantizer_config(*cfg);
  if (const Node* algorithm = fields.find("algorithm")) {
    if (!rule.config) algorithm->fail("an algorithm needs a cfg beside it");
    rule.config->algorithm = read_algorithm(*algorithm);
  }
  return rule;
}

std::vector<Rule> read_rules(const Node& quant_cfg) {
  std::vector<Rule> rules;
  for (const Node& item : quant_cfg.items()) rules.push_back(read_rule(item));
  return rules;
}

// `algorithm` and `quant_cfg`: a recipe's `quantize`, or all of a preset. The formats know their
// cost, so `effective_bits` is read over.
void read_quantize(const Fields& fields, Recipe& recipe) {
  if (const Node* algorithm = fields.find("algorithm")) {
    recipe.algorithm = read_algorithm(*algorithm);
  }
  recipe.rules = read_rules(fields.require("quant_cfg"));
}

void read_metadata(const Node& node, Recipe& recipe) {
  constexpr std::array<std::string_view, 2> kKnown = {"recipe_type", "description"};
  const Fields fields = node.fields();
  fields.allow_only(kKnown);
  const Node& type = fields.require("recipe_type");
  if (type.string() == "auto_quantize") {
    type.fail(ErrorKind::kUnsupported,
              "a search is not a recipe here: run vernier search, which writes one");
  }
  if (type.string() != "ptq") {
    type.fail(ErrorKind::kUnsupported,
              fmt::format("recipes of type \"{}\" are not available, only ptq", type.string()));
  }
  if (const Node* description = fields.find("description")) {
    recipe.description = description->string();
    while (!recipe.description.empty() && recipe.description.back() == '\n') {
      recipe.description.pop_back();
    }
  }
}

void read_export(const Node& node, Recipe& recipe) {
  constexpr std::array<std::string_view, 1> kKnown = {"mamba_ssm_cache_dtype"};
  constexpr std::array<std::string_view, 3> kDTypes = {"float32", "float16", "bfloat16"};
  const Fields fields = node.fields();
  fields.allow_only(kKnown);
  const Node* dtype = fields.find("mamba_ssm_cache_dtype");
  if (!dtype) return;
  recipe.mamba_ssm_cache_dtype = dtype->string();
  if (std::find(kDTypes.begin(), kDTypes.end(), recipe.mamba_ssm_cache_dtype) == kDTypes.end()) {
    dtype->fail(fmt::format("found \"{}\", expected {}", recipe.mamba_ssm_cache_dtype,
                            fmt::join(kDTypes, ", ")));
  }
}

Recipe read_recipe(const Node& root) {
  constexpr std::array<std::string_view, 4> kRecipeKeys = {"imports", "metadata", "quantize",
                                                           "export"};
  constexpr std::array<std::string_view, 4> kPresetKeys = {"imports", "algorithm", "quant_cfg",
                                                           "effective_bits"};
  Recipe recipe;
  recipe.name = std::filesystem::path(root.file().name).stem().string();
  const Fields fields = root.fields();
  if (fields.find("quant_cfg")) {
    fields.allow_only(kPresetKeys);
    read_quantize(fields, recipe);
    return recipe;
  }
  // First, since other types have other keys.
  read_metadata(fields.require("metadata"), recipe);
  fields.allow_only(kRecipeKeys);
  const Fields quantize = fields.require("quantize").fields();
  quantize.allow_only(Names(kPresetKeys).subspan(1));
  read_quantize(quantize, recipe);
  if (const Node* node = fields.find("export")) read_export(*node, recipe);
  return recipe;
}

}  // namespace

Recipe load_recipe(std::string_view name_or_path) { return read_recipe(open_recipe(name_or_path)); }

void append_kv_preset(Recipe& recipe, std::string_view preset) {
  const std::vector<std::string> presets = shipped_names("kv");
  if (std::find(presets.begin(), presets.end(), preset) == presets.end()) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("unknown KV-cache format \"{}\", expected one of {}", preset,
                            fmt::join(presets, ", ")));
  }
  const auto file = open_shipped(fmt::format("kv/{}", preset));
  VERNIER_CHECK(file.has_value());
  const std::vector<Rule> rules = read_rules(*file);
  recipe.rules.insert(recipe.rules.end(), rules.begin(), rules.end());
}

std::vector<RecipeSummary> list_recipes() {
  std::vector<RecipeSummary> summaries;
  for (const std::string& name : shipped_names("")) {
    summaries.push_back({name, load_recipe(name).description});
  }
  return summaries;
}

}  // namespace vernier::quant
