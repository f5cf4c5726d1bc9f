// Scores and choices of a search for programs.
#include "io/json.h"
#include "search/report_parts.h"
#include "search/search_report.h"

namespace vernier::search {
namespace {

constexpr int kVersion = 1;

io::Json groups_json(const SearchReport& report) {
  io::Json groups = io::Json::array();
  for (size_t index = 0; index < report.scores.groups.size(); ++index) {
    const ScoredGroup& group = report.scores.groups[index];
    io::Json scores = io::Json::object();
    for (const Candidate* candidate : report.scores.candidates) {
      if (!has_score(report.scores, index, candidate)) continue;
      scores[std::string(candidate->name)] = report.allocator.score(index, candidate);
    }
    groups.push_back({{"name", group.name},
                      {"layer", group.layer},
                      {"family", family_of(group)},
                      {"weights", group.n_weights},
                      {"active_weights", group.n_active_weights},
                      {"counted", report.allocator.is_counted(index)},
                      {"scores", scores}});
  }
  return groups;
}

io::Json allocation_json(const SearchReport& report, const ReportedAllocation& row) {
  io::Json chosen = io::Json::object();
  for (size_t group = 0; group < report.scores.groups.size(); ++group) {
    chosen[report.scores.groups[group].name] = name_of(row.allocation.chosen[group]);
  }
  io::Json measured;  // null: not measured
  if (row.measured_kl) {
    measured = {{"mean", row.measured_kl->mean},
                {"standard_error", row.measured_kl->standard_error}};
  }
  return {{"budget", row.budget},
          {"bits", row.allocation.bits},
          {"active_bits", row.allocation.active_bits},
          {"predicted_kl", row.allocation.predicted_kl},
          {"measured_kl", measured},
          {"swaps", row.n_swaps},
          {"recipe", row.recipe_file},
          {"chosen", chosen}};
}

}  // namespace

io::Json to_json(const SearchReport& report) {
  io::Json candidates = io::Json::array();
  for (const Candidate* candidate : reported_candidates(report.scores)) {
    candidates.push_back({{"name", name_of(candidate)}, {"bits", bits_per_weight(candidate)}});
  }
  io::Json allocations = io::Json::array();
  for (const ReportedAllocation& row : report.allocations) {
    allocations.push_back(allocation_json(report, row));
  }
  io::Json frontier = io::Json::array();
  for (const FrontierPoint& point : report.frontier) {
    frontier.push_back({{"bits", point.bits}, {"predicted_kl", point.predicted_kl}});
  }
  io::Json comparisons = io::Json::array();
  for (const Comparison& row : report.comparisons) {
    comparisons.push_back({{"label", row.label},
                           {"bits", row.bits},
                           {"predicted_kl", row.predicted_kl},
                           {"measured_kl", row.measured_kl}});
  }
  return {{"version", kVersion},
          {"model", report.scores.model},
          {"score_kind", to_string(report.kind)},
          {"unit", "nats a position"},
          {"candidates", candidates},
          {"allocations", allocations},
          {"frontier", frontier},
          {"comparisons", comparisons},
          {"groups", groups_json(report)}};
}

}  // namespace vernier::search
