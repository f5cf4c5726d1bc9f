// A recipe becomes a plan in four steps: rules decide every quantizer; decisions become formats,
// each checked where it stands; what serving kernels fuse is made to agree; counts and the scale
// search are checked as a whole.
#include "quant/plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "quant/rule_match.h"

namespace vernier::quant {
namespace {

using formats::Format;
using formats::ScaleMethod;
using formats::ScaleRule;
using model::Module;
using model::ModuleKind;

constexpr size_t kMaxNamed = 5;  // modules an error names before it counts

[[noreturn]] void fail(const std::string& what) { throw Error(ErrorKind::kInvalidArgument, what); }
[[noreturn]] void fail_unsupported(const std::string& what) {
  throw Error(ErrorKind::kUnsupported, what);
}

bool has_block_scales(const Format& format) {
  return std::any_of(format.planes.begin(), format.planes.end(), [](const auto& plane) {
    return plane.role == formats::PlaneRole::kBlockScales;
  });
}

std::string_view name_of(const Format* format) { return format ? format->name : "none"; }

class Planner {
 public:
  Planner(const Recipe& recipe, const model::ModuleTree& tree, const PlanOptions& options)
      : recipe_(recipe), options_(options), quantizers_(quantizers_of(tree)) {
    std::vector<int64_t> n_matched;
    decisions_ = apply_rules(recipe.rules, quantizers_, n_matched);
    count_rules(n_matched);
  }

  QuantPlan make() && {
    check_rules_match();
    for (size_t at = 0; at < quantizers_.size(); ++at) decide(quantizers_[at], decisions_[at]);
    for (const SitePlan& site : plan_.sites) check_input(site);
    check_fits();
    check_groups();
    check_sweep();
    check_kv();
    return std::move(plan_);
  }

 private:
  void count_rules(const std::vector<int64_t>& n_matched) {
    for (size_t index = 0; index < recipe_.rules.size(); ++index) {
      plan_.rules.push_back({recipe_.rules[index], n_matched[index], 0});
    }
    for (const Decision& decision : decisions_) {
      if (decision.rule >= 0) ++plan_.rules[static_cast<size_t>(decision.rule)].n_decided;
    }
  }

  std::string rule_of(const Decision& decision) const {
    if (decision.rule < 0) return "no rule";
    return describe(recipe_.rules[static_cast<size_t>(decision.rule)]);
  }

  // A misspelled rule must not silently leave modules unquantized.
  void check_rules_match() const {
    for (const RuleUse& use : plan_.rules) {
      if (!use.rule.enable || use.n_matched > 0) continue;
      const std::string example =
          quantizers_.empty() ? "" : fmt::format("; they are named like {}", quantizers_[0].name);
      fail(fmt::format("the rule {} enables quantizers but matches none of this network's {}{}",
                       describe(use.rule), quantizers_.size(), example));
    }
  }

  // The configuration of a quantizer that is on, null when it is off.
  const QuantizerConfig* config_of(const Quantizer& quantizer, const Decision& decision) const {
    if (!decision.is_enabled) return nullptr;
    if (!decision.config) {
      fail(fmt::format("{}: the rule {} switches it on, but no rule gives it a format",
                       quantizer.name, rule_of(decision)));
    }
    return &*decision.config;
  }

  void decide(const Quantizer& quantizer, const Decision& decision) {
    const QuantizerConfig* config = config_of(quantizer, decision);
    const bool is_conv = quantizer.module && quantizer.module->kind == ModuleKind::kConv1d;
    if (config && is_conv) refuse(quantizer, decision, "convolutions are not quantized");
    switch (quantizer.role) {
      case QuantizerRole::kWeight:
        if (!is_conv) decide_weight(quantizer, decision, config);
        break;
      case QuantizerRole::kInput:
        if (!is_conv) decide_input(quantizer, decision, config);
        break;
      case QuantizerRole::kOutput:
        if (config) refuse(quantizer, decision, "outputs are not quantized");
        break;
      case QuantizerRole::kQ:
        if (config) refuse(quantizer, decision, "queries are not quantized");
        plan_.kv.push_back({quantizer.site, nullptr, false, ""});
        break;
      case QuantizerRole::kK:
      case QuantizerRole::kV:
        decide_kv(quantizer, decision, config);
        break;
    }
  }

  [[noreturn]] void refuse(const Quantizer& quantizer, const Decision& decision,
                           std::string_view why) const {
    fail(
        fmt::format("{}: the rule {} enables it, but {}; narrow the pattern or disable it in a "
                    "later rule",
                    quantizer.name, rule_of(decision), why));
  }

  [[noreturn]] void refuse_config(const Quantizer& quantizer, const Decision& decision,
                                  std::string_view what) const {
    fail_unsupported(
        fmt::format("{}: {} (by the rule {})", quantizer.name, what, rule_of(decision)));
  }

  void decide_weight(const Quantizer& quantizer, const Decision& decision,
                     const QuantizerConfig* config) {
    SitePlan site;
    site.module = quantizer.module;
    site.weight_rule = rule_of(decision);
    site.weight_format = &formats::bf16_format();
    if (config) {
      if (config->use_constant_amax || config->constant_amax) {
        refuse_config(quantizer, decision, "a constant amax is for inputs and the KV cache");
      }
      site.weight_format = config->format;
      site.scale_rule = scale_rule(quantizer, decision, *config);
    }
    plan_.sites.push_back(std::move(site));
  }

  // The sweep is over E4M3 block scales that are stored: static ones. Multipliers scale any
  // calibrated amax, that of an FP8 weight included.
  ScaleRule scale_rule(const Quantizer& quantizer, const Decision& decision,
                       const QuantizerConfig& config) const {
    const Algorithm& algorithm = config.algorithm ? *config.algorithm : recipe_.algorithm;
    const bool is_dynamic = has_block_scales(*config.format) && !config.is_static;
    ScaleRule rule;
    rule.is_static = config.is_static;
    rule.four_over_six = config.four_over_six;
    if (algorithm.method == AlgorithmMethod::kMax) return rule;
    if (algorithm.fp8_scale_sweep) {
      if (config.four_over_six) {
        refuse_config(
            quantizer, decision,
            "four_over_six chooses between multipliers, so fp8_scale_sweep must be false");
      }
      if (config.is_static) rule.method = ScaleMethod::kFp8Sweep;
      return rule;
    }
    if (is_dynamic) {
      refuse_config(quantizer, decision,
                    "block scales of type dynamic are not searched; use nvfp4_static, or the "
                    "algorithm max");
    }
    rule.method = ScaleMethod::kMultipliers;
    rule.start = algorithm.start;
    rule.stop = algorithm.stop;
    rule.step = algorithm.step;
    return rule;
  }

  // The module's weight was decided just before.
  void decide_input(const Quantizer& quantizer, const Decision& decision,
                    const QuantizerConfig* config) {
    SitePlan& site = plan_.sites.back();
    VERNIER_CHECK(site.module == quantizer.module);
    site.input_rule = rule_of(decision);
    if (!config) return;
    if (quantizer.module->kind == ModuleKind::kEmbedding) {
      refuse(quantizer, decision, "the input of an embedding is token ids");
    }
    if (options_.weight_only) return;
    if (config->is_static) {
      refuse_config(quantizer, decision, "block scales of inputs are dynamic; use nvfp4");
    }
    if (config->use_constant_amax) {
      refuse_config(quantizer, decision,
                    "use_constant_amax is for the KV cache; use constant_amax");
    }
    if (config->format->input_divisor == 0) {
      refuse_config(quantizer, decision,
                    fmt::format("inputs cannot be in {}", config->format->name));
    }
    site.input_format = config->format;
    site.constant_input_amax = config->constant_amax;
  }

  // Checkpoints describe a module by one name for both: W4A4, W4A16, W8A8, W8A16.
  void check_input(const SitePlan& site) const {
    if (!site.input_format || site.input_format == site.weight_format) return;
    fail_unsupported(fmt::format(
        "{}: its weight would be in {} (by {}) and its input in {} (by {}); an input is in its "
        "weight's format or not quantized",
        site.module->name, site.weight_format->name, site.weight_rule, site.input_format->name,
        site.input_rule));
  }

  void decide_kv(const Quantizer& quantizer, const Decision& decision,
                 const QuantizerConfig* config) {
    KvPlan& kv = plan_.kv.back();
    VERNIER_CHECK(kv.site == quantizer.site);
    if (config && config->constant_amax) {
      refuse_config(quantizer, decision, "use use_constant_amax, whose scale is 1");
    }
    if (config && config->four_over_six) {
      refuse_config(quantizer, decision, "four_over_six is for weights");
    }
    const Format* format = config ? config->format : nullptr;
    const bool is_cast = config && config->use_constant_amax;
    if (quantizer.role == QuantizerRole::kV && (kv.format != format || kv.is_cast != is_cast)) {
      fail(fmt::format(
          "{}: keys would be in {}{} (by {}) and values in {}{} (by {}); they share one "
          "format",
          kv.site->name, name_of(kv.format), kv.is_cast ? " cast" : "", kv.rule, name_of(format),
          is_cast ? " cast" : "", rule_of(decision)));
    }
    kv.format = format;
    kv.is_cast = is_cast;
    kv.rule = rule_of(decision);
  }

  // Modules that are quantized together or not at all: fused ones, and a layer's routed experts.
  std::string unit_of(const Module& module) const {
    if (module.expert >= 0) return fmt::format("experts of layer {}", module.layer);
    return module.fusion_group.empty() ? module.name : module.fusion_group;
  }

  void check_fits() {
    std::vector<const SitePlan*> misfits;
    for (const SitePlan& site : plan_.sites) {
      if (site.module->k % site.weight_format->k_multiple != 0) misfits.push_back(&site);
    }
    if (misfits.empty()) return;
    if (!options_.unquantizable_bf16) fail(describe_misfits(misfits));
    std::map<std::string, std::string> reasons;
    for (const SitePlan* site : misfits) {
      reasons.emplace(unit_of(*site->module),
                      fmt::format("k {} of {} is not a multiple of {}'s {}", site->module->k,
                                  site->module->name, site->weight_format->name,
                                  site->weight_format->k_multiple));
    }
    for (SitePlan& site : plan_.sites) {
      const auto reason = reasons.find(unit_of(*site.module));
      if (reason == reasons.end() || !site.is_quantized()) continue;
      leave_unquantized(site, reason->second);
    }
  }

  void leave_unquantized(SitePlan& site, const std::string& reason) {
    plan_.left_unquantized.push_back(site.module);
    site.weight_format = &formats::bf16_format();
    site.scale_rule = {};
    site.input_format = nullptr;
    site.constant_input_amax.reset();
    site.weight_rule = reason;
    site.input_rule = reason;
  }

  static std::string describe_misfits(const std::vector<const SitePlan*>& misfits) {
    std::vector<std::string> named;
    for (const SitePlan* site : misfits) {
      if (named.size() == kMaxNamed) break;
      named.push_back(fmt::format("{} (k {}, {} needs a multiple of {})", site->module->name,
                                  site->module->k, site->weight_format->name,
                                  site->weight_format->k_multiple));
    }
    const size_t n_more = misfits.size() - named.size();
    return fmt::format(
        "the input width of {} module{} does not fit the recipe's format: {}{}; --unquantizable "
        "bf16 "
        "leaves such modules in BF16",
        misfits.size(), misfits.size() == 1 ? "" : "s", fmt::join(named, ", "),
        n_more == 0 ? "" : fmt::format(" and {} more", n_more));
  }

  // Fused modules share scales, so they must agree in everything; a layer's experts run in one
  // kernel, so they must agree in formats.
  void check_groups() const {
    std::map<std::string, const SitePlan*> first_of;
    for (const SitePlan& site : plan_.sites) {
      const std::string unit = unit_of(*site.module);
      const SitePlan& first = *first_of.emplace(unit, &site).first->second;
      const bool same_formats =
          first.weight_format == site.weight_format && first.input_format == site.input_format;
      const bool same_scales = first.scale_rule == site.scale_rule &&
                               first.constant_input_amax == site.constant_input_amax;
      if (same_formats && (same_scales || site.module->expert >= 0)) continue;
      fail(
          fmt::format("{} is {} (by {}) but {} is {} (by {}); serving kernels fuse them, so they "
                      "must be quantized alike",
                      first.module->name, summary(first), first.weight_rule, site.module->name,
                      summary(site), site.weight_rule));
    }
  }

  static std::string summary(const SitePlan& site) {
    return fmt::format("{} with {} inputs{}", site.weight_format->name,
                       site.input_format ? site.input_format->name : "unquantized",
                       site.scale_rule.four_over_six ? ", four over six" : "");
  }

  // A sweep with nothing to sweep is a recipe that forgot nvfp4_static.
  void check_sweep() const {
    const Algorithm& algorithm = recipe_.algorithm;
    if (algorithm.method != AlgorithmMethod::kMse || !algorithm.fp8_scale_sweep) return;
    const bool is_used = std::any_of(
        plan_.sites.begin(), plan_.sites.end(),
        [](const SitePlan& site) { return site.scale_rule.method == ScaleMethod::kFp8Sweep; });
    if (is_used || !plan_.left_unquantized.empty()) return;
    fail(
        fmt::format("the recipe {} asks for an FP8 scale sweep, but quantizes no weight to "
                    "nvfp4_static",
                    recipe_.name));
  }

  void check_kv() const {
    for (const KvPlan& kv : plan_.kv) {
      const KvPlan& first = plan_.kv.front();
      if (kv.format == first.format && kv.is_cast == first.is_cast) continue;
      fail(fmt::format(
          "the KV cache would be in {}{} at {} (by {}) but in {}{} at {} (by {}); it has "
          "one format",
          name_of(first.format), first.is_cast ? " cast" : "", first.site->name, first.rule,
          name_of(kv.format), kv.is_cast ? " cast" : "", kv.site->name, kv.rule));
    }
  }

  const Recipe& recipe_;
  const PlanOptions& options_;
  std::vector<Quantizer> quantizers_;
  std::vector<Decision> decisions_;
  QuantPlan plan_;
};

}  // namespace

QuantPlan make_plan(const Recipe& recipe, const model::ModuleTree& tree,
                    const PlanOptions& options) {
  return Planner(recipe, tree, options).make();
}

// Sites are in network order, which is the order of the modules in memory.
const SitePlan& QuantPlan::site(const Module& module) const {
  const auto found = std::lower_bound(sites.begin(), sites.end(), &module,
                                      [](const SitePlan& site, const Module* wanted) {
                                        return std::less<const Module*>()(site.module, wanted);
                                      });
  VERNIER_CHECK(found != sites.end() && found->module == &module);
  return *found;
}

const Format* QuantPlan::kv_format() const { return kv.empty() ? nullptr : kv.front().format; }

bool QuantPlan::kv_is_cast() const { return !kv.empty() && kv.front().is_cast; }

bool QuantPlan::needs_calibration() const {
  return (kv_format() && !kv_is_cast()) ||
         std::any_of(sites.begin(), sites.end(),
                     [](const SitePlan& site) { return site.needs_input_amax(); });
}

double QuantPlan::bits_per_weight() const {
  double n_bits = 0;
  double n_weights = 0;
  for (const SitePlan& site : sites) {
    if (site.module->kind != ModuleKind::kLinear) continue;
    const auto n_elems = static_cast<double>(site.module->n * site.module->k);
    n_bits += n_elems * site.weight_format->bits_per_weight;
    n_weights += n_elems;
  }
  return n_weights == 0 ? 0 : n_bits / n_weights;
}

}  // namespace vernier::quant
