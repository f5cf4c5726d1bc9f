// The page of a search: summary, frontier, sensitivity, allocations, all groups. It needs no
// network and no script; which allocation is shown is a choice of radio buttons and the style
// sheet.
#include <fmt/format.h>

#include <algorithm>

#include "report/units.h"
#include "search/html.h"
#include "search/report_parts.h"
#include "search/search_figures.h"
#include "search/search_page_style.h"
#include "search/search_report.h"

namespace vernier::search {
namespace {

using Rows = std::vector<std::vector<std::string>>;

std::string facts(const SearchReport& report) {
  const Scores& scores = report.scores;
  int64_t n_weights = 0;
  size_t n_modules = 0;
  int64_t n_uncounted = 0;
  for (size_t group = 0; group < scores.groups.size(); ++group) {
    n_weights += scores.groups[group].n_weights;
    n_modules += scores.groups[group].modules.size();
    if (!report.allocator.is_counted(group)) ++n_uncounted;
  }
  std::string text = fmt::format(
      "{} linear modules in {} groups, {} weights. {} scores from {} windows of {} tokens",
      report::format_count(static_cast<int64_t>(n_modules)),
      report::format_count(static_cast<int64_t>(scores.groups.size())),
      report::format_count(n_weights), title_of(report.kind),
      report::format_count(scores.n_windows), report::format_count(scores.window_tokens));
  if (scores.score_tokens < 1) {
    text += fmt::format(", candidates on {} of them", share_text(scores.score_tokens, 1));
  }
  text += ".";
  if (n_uncounted > 0) {
    text += fmt::format(" Budgets and bits a weight leave out {} of the groups; bytes do not.",
                        report::format_count(n_uncounted));
  }
  return fmt::format("<p class=\"facts\">{}</p>\n", escape(text));
}

std::string bytes_text(double bytes) { return report::format_bytes(std::llround(bytes)); }

std::string summary_table(const SearchReport& report) {
  if (report.allocations.empty()) return "";
  const std::vector<size_t> groups = all_groups(report.scores);
  Rows rows;
  for (const ReportedAllocation& row : report.allocations) {
    const Allocation& allocation = row.allocation;
    rows.push_back({escape(row.budget), fmt::format("{:.3f}", allocation.bits),
                    fmt::format("{:.3f}", allocation.active_bits),
                    bytes_text(sums_of(report, groups, allocation.chosen).bytes()),
                    kl_text(allocation.predicted_kl),
                    row.measured_kl ? kl_text(*row.measured_kl) : "-",
                    report::format_count(row.n_swaps), share_bar(report, groups, allocation.chosen),
                    fmt::format("<code>{}</code>", escape(row.recipe_file))});
  }
  return html_table("Allocations. KL in nats a position; bytes of all linear weights.",
                    {{"budget", false},
                     {"bits a weight"},
                     {"active bits"},
                     {"bytes"},
                     {"predicted KL"},
                     {"measured KL"},
                     {"swaps"},
                     {"weights by format", false},
                     {"recipe", false}},
                    rows) +
         cell_legend(report, reported_candidates(report.scores));
}

std::string comparison_table(const SearchReport& report) {
  Rows rows;
  for (const Comparison& row : report.comparisons) {
    rows.push_back(
        {escape(row.label), fmt::format("{:.3f}", row.bits), kl_text(row.predicted_kl),
         kl_text(row.measured_kl),
         row.predicted_kl > 0 ? fmt::format("{:.2f}", row.measured_kl / row.predicted_kl) : "-"});
  }
  return html_table("KL in nats a position",
                    {{"model", false}, {"bits"}, {"predicted"}, {"measured"}, {"ratio"}}, rows);
}

std::string quality_section(const SearchReport& report) {
  std::string html;
  if (!report.frontier.empty() || !report.allocations.empty()) {
    html += "<section>\n<h2>Frontier</h2>\n" + frontier_figure(report) + "</section>\n";
  }
  if (!report.comparisons.empty()) {
    html += "<section>\n<h2>Predicted against measured</h2>\n" + comparison_figure(report) +
            comparison_table(report) + "</section>\n";
  }
  return html.empty() ? "" : "<div class=\"pair\">\n" + html + "</div>\n";
}

std::vector<std::string> family_row(const SearchReport& report, const std::string& name,
                                    const std::vector<size_t>& groups, const GroupSums& whole,
                                    const Assignment& chosen) {
  const GroupSums sums = sums_of(report, groups, chosen);
  const GroupSums before = sums_of(report, groups, Assignment(chosen.size()));
  const auto n_weights = static_cast<double>(sums.n_weights);
  return {escape(name),
          report::format_count(sums.n_groups),
          share_text(n_weights, static_cast<double>(whole.n_weights)),
          share_bar(report, groups, chosen),
          fmt::format("{:.3f}", sums.bits_per_weight()),
          bytes_text(before.bytes()),
          bytes_text(sums.bytes()),
          share_text(sums.stored_bits, whole.stored_bits),
          kl_text(sums.predicted_kl),
          share_text(sums.predicted_kl, whole.predicted_kl)};
}

std::string family_table(const SearchReport& report, const ReportedAllocation& row) {
  const Assignment& chosen = row.allocation.chosen;
  const std::vector<size_t> all = all_groups(report.scores);
  const GroupSums whole = sums_of(report, all, chosen);
  Rows rows;
  for (const Family& family : families_of(report.scores)) {
    rows.push_back(family_row(report, family.name, family.groups, whole, chosen));
  }
  rows.push_back(family_row(report, "all", all, whole, chosen));
  return html_table(fmt::format("Bits and bytes by family at {}", row.budget),
                    {{"family", false},
                     {"groups"},
                     {"of weights"},
                     {"weights by format", false},
                     {"bits a weight"},
                     {"bytes in BF16"},
                     {"bytes"},
                     {"of bytes"},
                     {"predicted KL"},
                     {"of KL"}},
                    rows, true);
}

std::string allocation_panel(const SearchReport& report, const ReportedAllocation& row) {
  std::vector<const Candidate*> used;
  for (const CandidateUse& use :
       uses_of(report, all_groups(report.scores), row.allocation.chosen)) {
    used.push_back(use.candidate);
  }
  return fmt::format(
      "<h3>{}</h3>\n<figure>\n{}{}<figcaption>A column is a layer, a cell the format "
      "of one group of modules.</figcaption></figure>\n{}",
      escape(row.budget), cell_legend(report, used), allocation_map(report, row),
      family_table(report, row));
}

// Which allocation is seen: rules for each pair of a button and a panel, which are siblings.
std::string choice_style(size_t n_allocations) {
  std::string css = "\n";
  for (size_t index = 0; index < n_allocations; ++index) {
    css += fmt::format("#choice{0}:checked ~ #allocation{0} {{ display: block; }}\n", index);
  }
  return css;
}

std::string allocation_section(const SearchReport& report) {
  if (report.allocations.empty()) return "";
  if (report.allocations.size() == 1) {
    return "<section>\n<h2>Allocation</h2>\n" +
           allocation_panel(report, report.allocations.front()) + "</section>\n";
  }
  std::string buttons;
  std::string panels;
  for (size_t index = 0; index < report.allocations.size(); ++index) {
    const ReportedAllocation& row = report.allocations[index];
    const bool is_shown = index + 1 == report.allocations.size();
    buttons += fmt::format(
        "<input type=\"radio\" class=\"choice\" name=\"allocation\" id=\"choice{0}\"{1}/>"
        "<label for=\"choice{0}\">{2}</label>\n",
        index, is_shown ? " checked=\"checked\"" : "", escape(row.budget));
    panels += fmt::format("<div class=\"of-allocation\" id=\"allocation{}\">\n{}</div>\n", index,
                          allocation_panel(report, row));
  }
  return "<section>\n<h2>Allocation</h2>\n" + buttons + panels + "</section>\n";
}

std::string group_table(const SearchReport& report) {
  const Scores& scores = report.scores;
  std::vector<HtmlColumn> columns = {{"group", false}, {"weights"}};
  for (const Candidate* candidate : scores.candidates) {
    columns.push_back({fmt::format("KL {}", candidate->name)});
  }
  for (const ReportedAllocation& row : report.allocations) columns.push_back({row.budget, false});
  Rows rows;
  for (size_t group = 0; group < scores.groups.size(); ++group) {
    std::vector<std::string>& cells =
        rows.emplace_back(1, fmt::format("<code>{}</code>", escape(scores.groups[group].name)));
    cells.push_back(report::format_count(scores.groups[group].n_weights));
    for (const Candidate* candidate : scores.candidates) {
      cells.push_back(has_score(scores, group, candidate)
                          ? kl_text(report.allocator.score(group, candidate))
                          : "-");
    }
    for (const ReportedAllocation& row : report.allocations) {
      cells.push_back(escape(name_of(row.allocation.chosen[group])));
    }
  }
  return fmt::format(
      "<section>\n<h2>All groups</h2>\n<details><summary>{} groups: scores and "
      "choices</summary>\n{}</details></section>\n",
      scores.groups.size(),
      html_table("Predicted KL in nats a position of each format, then what was "
                 "chosen for each budget",
                 columns, rows));
}

// What a family loses by a candidate; "-" where a group cannot take it.
std::string family_loss(const SearchReport& report, const Family& family,
                        const Candidate* candidate) {
  double loss = 0;
  for (const size_t group : family.groups) {
    if (!has_score(report.scores, group, candidate)) return "-";
    loss += report.allocator.score(group, candidate);
  }
  return kl_text(loss);
}

std::string sensitivity_table(const SearchReport& report) {
  std::vector<HtmlColumn> columns = {{"family", false}, {"groups"}, {"weights"}};
  for (const Candidate* candidate : report.scores.candidates) {
    columns.push_back({std::string(candidate->name)});
  }
  Rows rows;
  for (const Family& family : families_of(report.scores)) {
    const GroupSums sums = sums_of(report, family.groups, Assignment(report.scores.groups.size()));
    std::vector<std::string>& cells = rows.emplace_back(1, escape(family.name));
    cells.push_back(report::format_count(sums.n_groups));
    cells.push_back(report::format_count(sums.n_weights));
    for (const Candidate* candidate : report.scores.candidates) {
      cells.push_back(family_loss(report, family, candidate));
    }
  }
  return html_table("Predicted KL in nats a position if the whole family takes a format", columns,
                    rows);
}

std::string sensitivity_section(const SearchReport& report) {
  return "<section>\n<h2>Sensitivity</h2>\n" + sensitivity_figures(report) +
         sensitivity_table(report) + "<h3>What a saved bit costs</h3>\n" + price_map(report) +
         "</section>\n";
}

}  // namespace

std::string report_html(const SearchReport& report) {
  const std::string title = report.scores.model.empty()
                                ? "Search for formats"
                                : fmt::format("Search for formats: {}", report.scores.model);
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<title>{0}</title>\n<style>{1}{2}</style>\n</head>\n<body>\n<h1>{0}</h1>\n{3}{4}{5}{6}{7}{8}"
      "</body>\n</html>\n",
      escape(title), page_style(), choice_style(report.allocations.size()), facts(report),
      summary_table(report), quality_section(report), sensitivity_section(report),
      allocation_section(report), group_table(report));
}

}  // namespace vernier::search
