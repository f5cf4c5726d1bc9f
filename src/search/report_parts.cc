#include "search/report_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace vernier::search {

std::string_view name_of(const Candidate* candidate) {
  return candidate == nullptr ? all_candidates().front().name : candidate->name;
}

double bits_per_weight(const Candidate* candidate) {
  return candidate == nullptr ? all_candidates().front().bits_per_weight
                              : candidate->bits_per_weight;
}

std::vector<const Candidate*> reported_candidates(const Scores& scores) {
  std::vector<const Candidate*> candidates = {nullptr};
  candidates.insert(candidates.end(), scores.candidates.begin(), scores.candidates.end());
  return candidates;
}

// "backbone.layers.3.mixer.shared_experts.up_proj" -> "shared_experts up_proj": what follows the
// number of the layer and the name of its mixer; a lone name is set behind the kind of layer.
std::string family_of(const ScoredGroup& group) {
  if (group.is_routed) return "routed experts";
  if (group.layer < 0) return group.kind;
  const std::string number = fmt::format(".{}.", group.layer);
  const size_t at = group.name.find(number);
  std::string place = at == std::string::npos ? group.name : group.name.substr(at + number.size());
  if (const size_t dot = place.find('.'); dot != std::string::npos) place = place.substr(dot + 1);
  if (place.find('.') == std::string::npos) return group.kind + " " + place;
  std::ranges::replace(place, '.', ' ');
  return place;
}

std::vector<Family> families_of(const Scores& scores) {
  std::vector<Family> families;
  std::map<std::string, size_t> by_name;
  for (size_t group = 0; group < scores.groups.size(); ++group) {
    const std::string name = family_of(scores.groups[group]);
    const auto [at, is_new] = by_name.try_emplace(name, families.size());
    if (is_new) families.push_back({name, {}});
    families[at->second].groups.push_back(group);
  }
  return families;
}

double GroupSums::bits_per_weight() const {
  return n_weights == 0 ? 0 : stored_bits / static_cast<double>(n_weights);
}

GroupSums sums_of(const SearchReport& report, const std::vector<size_t>& groups,
                  const Assignment& assignment) {
  GroupSums sums;
  for (const size_t group : groups) {
    ++sums.n_groups;
    sums.n_weights += report.scores.groups[group].n_weights;
    sums.stored_bits += report.allocator.stored_bits(group, assignment[group]);
    sums.predicted_kl += report.allocator.score(group, assignment[group]);
  }
  return sums;
}

std::vector<CandidateUse> uses_of(const SearchReport& report, const std::vector<size_t>& groups,
                                  const Assignment& assignment) {
  std::vector<CandidateUse> uses;
  for (const Candidate* candidate : reported_candidates(report.scores)) {
    std::vector<size_t> chosen;
    std::ranges::copy_if(groups, std::back_inserter(chosen),
                         [&](size_t group) { return assignment[group] == candidate; });
    if (!chosen.empty()) uses.push_back({candidate, sums_of(report, chosen, assignment)});
  }
  return uses;
}

std::vector<size_t> all_groups(const Scores& scores) {
  std::vector<size_t> groups(scores.groups.size());
  for (size_t group = 0; group < groups.size(); ++group) groups[group] = group;
  return groups;
}

bool has_score(const Scores& scores, size_t group, const Candidate* candidate) {
  const auto found = std::ranges::find(scores.candidates, candidate);
  if (found == scores.candidates.end()) return false;
  return scores.groups[group]
      .scores[static_cast<size_t>(found - scores.candidates.begin())]
      .has_value();
}

const Candidate* smallest_candidate(const SearchReport& report, size_t group) {
  const Candidate* smallest = nullptr;
  for (const Candidate* candidate : report.scores.candidates) {
    if (!has_score(report.scores, group, candidate)) continue;
    const auto is_better = [&] {
      if (candidate->bits_per_weight != smallest->bits_per_weight) {
        return candidate->bits_per_weight < smallest->bits_per_weight;
      }
      return report.allocator.score(group, candidate) < report.allocator.score(group, smallest);
    };
    if (smallest == nullptr || is_better()) smallest = candidate;
  }
  return smallest;
}

std::vector<size_t> by_sensitivity(const SearchReport& report) {
  std::vector<double> loss;
  for (size_t group = 0; group < report.scores.groups.size(); ++group) {
    const double nats = report.allocator.score(group, smallest_candidate(report, group));
    // What is no number comes first: it is to be seen, and an order needs numbers.
    loss.push_back(std::isnan(nats) ? INFINITY : nats);
  }
  std::vector<size_t> groups = all_groups(report.scores);
  std::ranges::stable_sort(groups, [&](size_t a, size_t b) { return loss[a] > loss[b]; });
  return groups;
}

namespace {

constexpr double kSmallestFixed = 1e-3;

// Three significant digits: "0.0227" has four decimals.
int decimals_of(double value) {
  return std::max(0, 2 - static_cast<int>(std::floor(std::log10(std::abs(value)))));
}

// "1.2e-05" -> "1.2e-5"
std::string scientific(double value, int decimals) {
  std::string text = fmt::format("{:.{}e}", value, decimals);
  const size_t digits = text.find('e') + 2;
  text.erase(digits, std::min(text.find_first_not_of('0', digits), text.size() - 1) - digits);
  return text;
}

bool is_fixed(double value) { return !std::isfinite(value) || std::abs(value) >= kSmallestFixed; }

}  // namespace

std::string kl_text(double nats) {
  if (nats == 0) return "0";
  if (!std::isfinite(nats)) return fmt::format("{}", nats);
  return is_fixed(nats) ? fmt::format("{:.{}f}", nats, decimals_of(nats)) : scientific(nats, 1);
}

std::string kl_text(const eval::Estimate& estimate) {
  const double error = estimate.standard_error;
  std::string error_text = kl_text(error);
  if (error != 0 && std::isfinite(error) && std::isfinite(estimate.mean) && estimate.mean != 0) {
    // As many decimals as the mean has, where that leaves something.
    const int decimals = decimals_of(estimate.mean);
    const bool is_seen = is_fixed(estimate.mean) && error * std::pow(10.0, decimals) >= 0.5;
    error_text = is_seen ? fmt::format("{:.{}f}", error, decimals) : scientific(error, 0);
  }
  return kl_text(estimate.mean) + " ± " + error_text;
}

std::string share_text(double part, double whole) {
  if (part == 0 || whole == 0) return "0 %";
  const double percent = 100 * part / whole;
  return percent < 0.1 ? "< 0.1 %" : fmt::format("{:.1f} %", percent);
}

}  // namespace vernier::search
