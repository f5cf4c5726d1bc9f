// The tables of a search for a terminal.
#include <fmt/format.h>

#include <algorithm>

#include "report/table.h"
#include "report/units.h"
#include "search/report_parts.h"
#include "search/search_report.h"

namespace vernier::search {
namespace {

using report::Align;

constexpr size_t kMostSensitive = 10;

std::string allocation_table(const SearchReport& report, int width) {
  const auto is_measured = [](const ReportedAllocation& row) {
    return row.measured_kl.has_value();
  };
  const bool any_measured = std::ranges::any_of(report.allocations, is_measured);
  std::vector<report::Column> columns = {
      {"budget", Align::kLeft, true}, {"bits/w"}, {"active"}, {"predicted KL"}};
  if (any_measured) columns.insert(columns.end(), {{"measured KL"}, {"swaps"}});
  std::vector<std::vector<std::string>> rows;
  for (const ReportedAllocation& row : report.allocations) {
    rows.push_back({row.budget, fmt::format("{:.3f}", row.allocation.bits),
                    fmt::format("{:.3f}", row.allocation.active_bits),
                    kl_text(row.allocation.predicted_kl)});
    if (!any_measured) continue;
    rows.back().push_back(row.measured_kl ? kl_text(*row.measured_kl) : "-");
    rows.back().push_back(report::format_count(row.n_swaps));
  }
  return report::format_table(columns, rows, width);
}

// Paths have a table of their own: beside the numbers they would be cut short.
std::string recipe_table(const SearchReport& report, int width) {
  std::vector<std::vector<std::string>> rows;
  for (const ReportedAllocation& row : report.allocations) {
    if (!row.recipe_file.empty()) rows.push_back({row.budget, row.recipe_file});
  }
  if (rows.empty()) return "";
  return "\n" + report::format_table(
                    {{"budget", Align::kLeft, true}, {"recipe", Align::kLeft, true}}, rows, width);
}

std::string family_table(const SearchReport& report, const ReportedAllocation& shown, int width) {
  const Assignment& chosen = shown.allocation.chosen;
  const GroupSums whole = sums_of(report, all_groups(report.scores), chosen);
  std::vector<std::vector<std::string>> rows;
  for (const Family& family : families_of(report.scores)) {
    std::string title = family.name;
    for (const CandidateUse& use : uses_of(report, family.groups, chosen)) {
      const GroupSums& sums = use.sums;
      rows.push_back(
          {title, std::string(name_of(use.candidate)), report::format_count(sums.n_groups),
           share_text(static_cast<double>(sums.n_weights), static_cast<double>(whole.n_weights)),
           share_text(sums.stored_bits, whole.stored_bits),
           share_text(sums.predicted_kl, whole.predicted_kl)});
      title.clear();
    }
  }
  return report::format_table({{"family", Align::kLeft, true},
                               {"format", Align::kLeft, true},
                               {"groups"},
                               {"weights"},
                               {"of bits"},
                               {"of KL"}},
                              rows, width);
}

std::string sensitive_table(const SearchReport& report, const ReportedAllocation* shown,
                            int width) {
  std::vector<report::Column> columns = {
      {"layer"}, {"family", Align::kLeft, true}, {"weights"}, {"KL at fewest bits"}};
  if (shown != nullptr) columns.insert(columns.end(), {{"chosen", Align::kLeft}, {"KL"}});
  int64_t n_weights = 0;
  for (const ScoredGroup& group : report.scores.groups) n_weights += group.n_weights;
  std::vector<std::vector<std::string>> rows;
  for (const size_t index : by_sensitivity(report)) {
    if (rows.size() == kMostSensitive) break;
    const ScoredGroup& group = report.scores.groups[index];
    rows.push_back(
        {group.layer < 0 ? "-" : fmt::format("{}", group.layer), family_of(group),
         share_text(static_cast<double>(group.n_weights), static_cast<double>(n_weights)),
         kl_text(report.allocator.score(index, smallest_candidate(report, index)))});
    if (shown == nullptr) continue;
    const Candidate* chosen = shown->allocation.chosen[index];
    rows.back().push_back(std::string(name_of(chosen)));
    rows.back().push_back(kl_text(report.allocator.score(index, chosen)));
  }
  return report::format_table(columns, rows, width);
}

}  // namespace

std::string report_text(const SearchReport& report, int table_width) {
  const ReportedAllocation* shown =
      report.allocations.empty() ? nullptr : &report.allocations.back();
  std::string text;
  if (shown != nullptr) {
    text +=
        fmt::format("allocations, KL in nats a position by {} scores:\n", title_of(report.kind)) +
        allocation_table(report, table_width) + recipe_table(report, table_width);
    text += fmt::format("\nby family at {}:\n", shown->budget) +
            family_table(report, *shown, table_width) + "\n";
  }
  return text + "most sensitive groups:\n" + sensitive_table(report, shown, table_width);
}

}  // namespace vernier::search
