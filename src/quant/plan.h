// A recipe applied to a network: for every module the formats of its weight and input and the rules
// that decided, before any work is done.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/module.h"
#include "quant/recipe.h"

namespace vernier::quant {

// What happens to one linear or embedding.
struct SitePlan {
  const model::Module* module = nullptr;
  const formats::Format* weight_format = nullptr;  // bf16_format() when not quantized
  formats::ScaleRule scale_rule;
  const formats::Format* input_format = nullptr;  // null: the input is not rounded
  std::optional<float> constant_input_amax;
  std::string weight_rule;  // pattern and origin of the rule that decided; "no rule" for none
  std::string input_rule;

  bool is_quantized() const { return weight_format != &formats::bf16_format(); }
  bool needs_input_amax() const { return input_format != nullptr && !constant_input_amax; }
};

struct KvPlan {
  const model::AttentionSite* site = nullptr;
  const formats::Format* format = nullptr;  // null: unquantized
  bool is_cast = false;                     // no scales are calibrated or stored
  std::string rule;
};

struct RuleUse {
  Rule rule;
  int64_t n_matched = 0;  // quantizers whose name it matches
  int64_t n_decided = 0;  // of these, those on which it had the last word
};

struct QuantPlan {
  std::vector<SitePlan> sites;  // every linear and embedding, in network order
  std::vector<KvPlan> kv;
  std::vector<RuleUse> rules;
  // Modules a rule wanted in a format that their k does not allow, left in BF16 on request together
  // with those that must be quantized alike.
  std::vector<const model::Module*> left_unquantized;

  const SitePlan& site(const model::Module& module) const;
  // The cache's format (one for all layers), null for none.
  const formats::Format* kv_format() const;
  bool kv_is_cast() const;
  // Whether activations must be observed at all.
  bool needs_calibration() const;
  // As design defines them: weights x bits over the weights of the linear modules.
  double bits_per_weight() const;
};

struct PlanOptions {
  bool weight_only = false;         // drops every input quantizer
  bool unquantizable_bf16 = false;  // leave modules whose k does not fit the format in BF16
};

// Throws InvalidArgument for: a rule that switches on and matches no quantizer; a quantizer that is
// left on without a format, or where none can be (the input of an embedding, an output, a
// convolution, q); k not a multiple of the format's (listing the modules) unless
// unquantizable_bf16; fused modules (q, k, v) that are not quantized alike; routed experts of one
// layer in different formats; K and V, or the caches of two layers, in different formats; a sweep
// with nothing to sweep. Throws Unsupported for an input in another format than its weight, and for
// attributes that a quantizer of that kind cannot have.
QuantPlan make_plan(const Recipe& recipe, const model::ModuleTree& tree,
                    const PlanOptions& options);

}  // namespace vernier::quant
