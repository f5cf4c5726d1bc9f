#include "quant/rule_match.h"

#include <fmt/format.h>

#include "quant/glob.h"

namespace vernier::quant {

std::vector<Decision> apply_rules(const std::vector<Rule>& rules,
                                  const std::vector<Quantizer>& quantizers,
                                  std::vector<int64_t>& n_matched) {
  std::vector<Decision> decisions(quantizers.size());
  n_matched.assign(rules.size(), 0);
  for (size_t index = 0; index < rules.size(); ++index) {
    const Rule& rule = rules[index];
    const Glob glob(rule.pattern);
    for (size_t at = 0; at < quantizers.size(); ++at) {
      const Quantizer& quantizer = quantizers[at];
      if (!rule.parent_class.empty() && rule.parent_class != parent_class(quantizer)) continue;
      if (!glob.matches(quantizer.name)) continue;
      ++n_matched[index];
      decisions[at].is_enabled = rule.enable;
      decisions[at].rule = static_cast<int>(index);
      if (rule.config) decisions[at].config = rule.config;
    }
  }
  return decisions;
}

std::string describe(const Rule& rule) {
  return fmt::format("'{}'{}{} in {}", rule.pattern, rule.parent_class.empty() ? "" : " of ",
                     rule.parent_class, rule.origin);
}

}  // namespace vernier::quant
