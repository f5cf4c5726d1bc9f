// Recipes: which quantizer of which module does what, as an ordered list of rules in YAML. The
// fields and the matching are Model Optimizer's, so that its recipe files read here;
// docs/howto/recipes.md documents the language.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/format.h"

namespace vernier::quant {

enum class AlgorithmMethod { kMax, kMse };

struct Algorithm {
  AlgorithmMethod method = AlgorithmMethod::kMax;
  bool fp8_scale_sweep = false;  // kMse: sweep block scales instead of trying multipliers
  float start = 0.25f;
  float stop = 4.0f;
  float step = 0.1f;
};

// The attributes of one quantizer; quantizers.h says which there are.
struct QuantizerConfig {
  const formats::Format* format = nullptr;
  bool is_static = false;  // NVFP4 weights: calibrated block scales (needed by the searches)
  bool four_over_six = false;
  bool use_constant_amax = false;      // "cast": amax fixed at 448, no scale is stored
  std::optional<float> constant_amax;  // stored as if calibrated
  // How a weight's scales are chosen; absent: as the recipe says for all.
  std::optional<Algorithm> algorithm;
};

struct Rule {
  std::string pattern;       // glob over the whole quantizer name: *, ?, [kv]; * crosses dots
  std::string parent_class;  // "nn.Embedding": only modules of that class; empty: any
  bool enable = true;
  std::optional<QuantizerConfig> config;  // replaces all attributes; absent: only toggles
  std::string origin;  // "recipes/units/base_disable_all.yaml", for tables and errors
};

struct Recipe {
  std::string name;
  std::string description;
  Algorithm algorithm;
  std::vector<Rule> rules;
  // What the exported config.json tells servers about the SSM cache; empty: the source's value
  // stands.
  std::string mamba_ssm_cache_dtype;
};

// A shipped recipe by name ("mamba_moe_nvfp4_conservative") or a file. Throws NotFound listing the
// shipped names, InvalidArgument for unknown keys (with the nearest known one), wrong types,
// unknown formats and import cycles, Unsupported for what Model Optimizer knows and Vernier does
// not: always with file and place.
Recipe load_recipe(std::string_view name_or_path);

// Appends the rules of a KV-cache preset: "none", "fp8", "fp8_cast", "nvfp4".
void append_kv_preset(Recipe& recipe, std::string_view preset);

struct RecipeSummary {
  std::string name;
  std::string description;
};
// Shipped recipes in alphabetical order; units and KV presets are not among them.
std::vector<RecipeSummary> list_recipes();

}  // namespace vernier::quant
