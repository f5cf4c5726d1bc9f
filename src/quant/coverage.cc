// Rows are folded twice: first the experts of a layer, then the layers. Names are split at the
// layer's and the expert's number, which are components of their own.
#include "quant/coverage.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <tuple>

namespace vernier::quant {
namespace {

using formats::ScaleMethod;
using formats::ScaleRule;
using model::Module;
using model::ModuleKind;

// Layers that a row lists one by one.
constexpr size_t kMaxListedLayers = 16;

// A name around a number: "backbone.layers." 5 ".mixer.in_proj".
struct SplitName {
  std::string before;
  int number = -1;  // -1: the name has none and stands in `before`
  std::string after;

  // What is left of the name when the number is taken out.
  std::string stem() const { return before + '\0' + after; }
};

// Splits at the component that is the entry's layer, the first such number, or its expert, the
// last.
SplitName split_at(const std::string& name, int number, bool is_layer) {
  const std::string component = fmt::format(".{}.", number);
  const size_t at = number < 0 ? name.npos
                    : is_layer ? name.find(component)
                               : name.rfind(component);
  if (at == name.npos) return {name, -1, ""};
  return {name.substr(0, at + 1), number, name.substr(at + component.size() - 1)};
}

// {0,1,2,5} -> "{0-2,5}", {5} -> "5".
std::string number_set(const std::vector<int>& numbers) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < numbers.size();) {
    size_t end = begin + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
    if (end - begin >= 3) {
      parts.push_back(fmt::format("{}-{}", numbers[begin], numbers[end - 1]));
      begin = end;
    } else {
      parts.push_back(fmt::format("{}", numbers[begin++]));
    }
  }
  return parts.size() == 1 && numbers.size() == 1 ? parts[0]
                                                  : fmt::format("{{{}}}", fmt::join(parts, ","));
}

// A row on its way: its layer and its expert are still numbers.
struct Entry {
  CoverageRow row;
  int layer = -1;
  int expert = -1;
};

// Entries that differ in one number only.
struct Fold {
  Entry entry;  // the first, with the counts of all
  SplitName name;
  std::vector<int> numbers;
};

enum class Axis { kLayer, kExpert };

// Entries fold when their names agree around the number, and their decisions; experts of different
// layers stay apart.
using Stem = std::pair<std::string, int>;
using FoldKey = std::tuple<Stem, std::string, std::string, std::string>;

Stem stem_of(const SplitName& name, const Entry& entry, Axis axis) {
  return {name.stem(), axis == Axis::kLayer ? -1 : entry.layer};
}

// All experts of a layer are `*`. So are all layers that have such a module, where a list would be
// long: the row's count tells how many those are.
std::string number_label(const std::vector<int>& numbers, bool is_all, Axis axis) {
  const bool is_long = numbers.size() > kMaxListedLayers;
  return is_all && (axis == Axis::kExpert || is_long) ? "*" : number_set(numbers);
}

std::vector<Entry> fold(const std::vector<Entry>& entries, Axis axis) {
  std::map<FoldKey, size_t> index_of;
  std::map<Stem, size_t> n_under_stem;
  std::vector<Fold> folds;
  for (const Entry& entry : entries) {
    const SplitName name = split_at(
        entry.row.modules, axis == Axis::kLayer ? entry.layer : entry.expert, axis == Axis::kLayer);
    const CoverageRow& row = entry.row;
    const Stem stem = stem_of(name, entry, axis);
    ++n_under_stem[stem];
    const auto [found, is_new] =
        index_of.emplace(FoldKey(stem, row.weight, row.input, row.rule), folds.size());
    if (is_new) {
      folds.push_back({entry, name, {}});
    } else {
      folds[found->second].entry.row.count += row.count;
      folds[found->second].entry.row.weights += row.weights;
    }
    folds[found->second].numbers.push_back(name.number);
  }
  std::vector<Entry> folded;
  for (Fold& one : folds) {
    if (one.name.number >= 0) {
      std::sort(one.numbers.begin(), one.numbers.end());
      const bool is_all = one.numbers.size() == n_under_stem[stem_of(one.name, one.entry, axis)];
      one.entry.row.modules =
          one.name.before + number_label(one.numbers, is_all, axis) + one.name.after;
    }
    folded.push_back(std::move(one.entry));
  }
  return folded;
}

std::string weight_label(const SitePlan& site) {
  std::string label(site.weight_format->name);
  const ScaleRule& rule = site.scale_rule;
  if (rule.four_over_six) label += " 4/6";
  if (rule.method == ScaleMethod::kFp8Sweep) label += " sweep";
  if (rule.method == ScaleMethod::kMultipliers && !rule.four_over_six) label += " multipliers";
  if (rule.method == ScaleMethod::kMax && rule.is_static && !rule.four_over_six) label += " static";
  return label;
}

std::string input_label(const SitePlan& site) {
  if (!site.input_format) return "-";
  if (!site.constant_input_amax) return std::string(site.input_format->name);
  return fmt::format("{} amax {}", site.input_format->name, *site.constant_input_amax);
}

std::string rule_label(const SitePlan& site) {
  if (site.input_rule == site.weight_rule || !site.input_format) return site.weight_rule;
  return fmt::format("{}; input {}", site.weight_rule, site.input_rule);
}

int64_t n_parameters(const Module& module) {
  int64_t total = 0;
  for (const model::TensorSpec& tensor : module.tensors) total += n_elems(tensor.shape);
  return total;
}

Entry module_entry(const QuantPlan& plan, const Module& module) {
  Entry entry{{module.name, 1, n_parameters(module), "not quantizable", "-", ""},
              module.layer,
              module.expert};
  if (!module.has_matrix()) return entry;
  const SitePlan& site = plan.site(module);
  entry.row.weight = weight_label(site);
  entry.row.input = input_label(site);
  entry.row.rule = rule_label(site);
  return entry;
}

Entry kv_entry(const KvPlan& kv) {
  const std::string format = kv.format ? std::string(kv.format->name) : "-";
  return {{kv.site->name + ".[kv]_bmm", 1, 0, "-", format + (kv.is_cast ? " cast" : ""), kv.rule},
          kv.site->layer,
          -1};
}

std::string action(const Rule& rule) {
  if (!rule.enable) return "off";
  if (!rule.config) return "on";
  std::string text(rule.config->format->name);
  if (rule.config->four_over_six) {
    text += " 4/6";
  } else if (rule.config->is_static) {
    text += " static";
  }
  if (rule.config->use_constant_amax) text += " cast";
  if (rule.config->constant_amax) text += fmt::format(" amax {}", *rule.config->constant_amax);
  return text;
}

}  // namespace

std::vector<CoverageRow> coverage(const QuantPlan& plan, const model::ModuleTree& tree) {
  std::vector<Entry> entries;
  for (const Module& module : tree.modules()) entries.push_back(module_entry(plan, module));
  for (const KvPlan& kv : plan.kv) entries.push_back(kv_entry(kv));
  std::vector<CoverageRow> rows;
  for (Entry& entry : fold(fold(entries, Axis::kExpert), Axis::kLayer)) {
    rows.push_back(std::move(entry.row));
  }
  return rows;
}

std::vector<RuleRow> rule_rows(const QuantPlan& plan) {
  std::vector<RuleRow> rows;
  for (const RuleUse& use : plan.rules) {
    std::string pattern = use.rule.pattern;
    if (!use.rule.parent_class.empty()) pattern += " of " + use.rule.parent_class;
    rows.push_back({pattern, action(use.rule), use.rule.origin, use.n_matched, use.n_decided});
  }
  return rows;
}

}  // namespace vernier::quant
