// Maps of the network, families by layers, and what shares their colours: legends and bars.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "search/html.h"
#include "search/report_parts.h"
#include "search/search_figures.h"
#include "search/svg.h"

namespace vernier::search {
namespace {

constexpr double kHeaderHeight = 20;
constexpr double kRowPitch = 22;
constexpr int kMostColumns = 60;  // of one strip; longer networks continue below

struct Cell {
  int column = 0;
  size_t row = 0;
  std::string css;
  double opacity = 1;
  std::string mark;
  std::string tooltip;
};

struct Map {
  std::string title;
  std::string description;
  std::vector<std::string> rows;
  int n_layers = 0;
  int n_columns = 0;  // layers, then one for what is outside the stack
  std::vector<Cell> cells;
};

Map empty_map(const Scores& scores, std::string title, std::string description) {
  Map map{std::move(title), std::move(description), {}, 0, 0, {}};
  bool has_outside = false;
  for (const ScoredGroup& group : scores.groups) {
    map.n_layers = std::max(map.n_layers, group.layer + 1);
    has_outside = has_outside || group.layer < 0;
  }
  map.n_columns = map.n_layers + (has_outside ? 1 : 0);
  for (const Family& family : families_of(scores)) map.rows.push_back(family.name);
  return map;
}

int column_of(const ScoredGroup& group, const Map& map) {
  return group.layer < 0 ? map.n_layers : group.layer;
}

// Row names in a drawing of their own: they stay in sight while the map scrolls.
Svg row_names(const Map& map, double width) {
  Svg svg(width, kHeaderHeight + kRowPitch * static_cast<double>(map.rows.size()),
          map.title + ": families", "Names of the rows");
  svg.text({width - 8, kHeaderHeight - 6}, "layer", "tick", Anchor::kEnd);
  for (size_t row = 0; row < map.rows.size(); ++row) {
    const double y = kHeaderHeight + kRowPitch * (static_cast<double>(row) + 0.5) + 4;
    svg.text({width - 8, y}, map.rows[row], "row-name", Anchor::kEnd);
  }
  return svg;
}

// Columns [first, last) of a map.
Svg strip(const Map& map, int first, int last, double pitch) {
  const double height = kHeaderHeight + kRowPitch * static_cast<double>(map.rows.size());
  Svg svg(pitch * (last - first), height, map.title, map.description);
  const int label_step = pitch >= 22 ? 1 : pitch >= 17 ? 2 : 5;
  for (int column = first; column < std::min(last, map.n_layers); ++column) {
    if (column % label_step != 0) continue;
    svg.text({pitch * (column - first + 0.5), kHeaderHeight - 6}, fmt::format("{}", column), "tick",
             Anchor::kMiddle);
  }
  for (size_t row = 0; row < map.rows.size(); ++row) {
    const double y = kHeaderHeight + kRowPitch * (static_cast<double>(row) + 0.5);
    svg.line({0, y}, {svg.width(), y}, "grid");
  }
  for (const Cell& cell : map.cells) {
    if (cell.column < first || cell.column >= last) continue;
    const Box box{pitch * (cell.column - first) + 1,
                  kHeaderHeight + kRowPitch * static_cast<double>(cell.row) + 1, pitch - 2,
                  kRowPitch - 2};
    if (cell.opacity < 1) svg.rect(box, "blank");
    svg.rect(box, cell.css, cell.opacity, cell.tooltip);
    if (cell.mark.empty()) continue;
    svg.text({box.left + box.width / 2, box.top + box.height / 2 + 3.5}, cell.mark,
             "mark " + cell.css.substr(cell.css.find_last_of(' ') + 1), Anchor::kMiddle);
  }
  return svg;
}

std::string drawn(const Map& map) {
  size_t longest = 0;
  for (const std::string& row : map.rows) longest = std::max(longest, row.size());
  const double names_width = 20 + 6.4 * static_cast<double>(longest);
  const int n_strips = std::max(1, (map.n_columns + kMostColumns - 1) / kMostColumns);
  const int per_strip = std::max(1, (map.n_columns + n_strips - 1) / n_strips);
  const double pitch = std::clamp(std::floor((1130 - names_width) / per_strip), 16.0, 34.0);
  std::string html;
  for (int first = 0; first < map.n_columns; first += per_strip) {
    const Svg names = row_names(map, names_width);
    const Svg body = strip(map, first, std::min(first + per_strip, map.n_columns), pitch);
    // On paper nothing scrolls: both drawings shrink by one factor.
    const double share = 100 / (names_width + pitch * per_strip);
    html += fmt::format(
        "<div class=\"scroll map\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">{}{}</div>\n",
        escape(map.title),
        names.str(fmt::format("class=\"names\" style=\"--w:{:.2f}%\"", share * names.width())),
        body.str(fmt::format("class=\"cells\" style=\"--w:{:.2f}%\"", share * body.width())));
  }
  return html;
}

std::string chosen_tooltip(const SearchReport& report, size_t index, const Candidate* chosen) {
  const ScoredGroup& group = report.scores.groups[index];
  return fmt::format("{}: {}, {:g} bits a weight, predicted KL {}{}", group.name, name_of(chosen),
                     bits_per_weight(chosen), kl_text(report.allocator.score(index, chosen)),
                     report.allocator.is_counted(index) ? "" : "; not counted in budgets");
}

}  // namespace

size_t style_of(const Candidate* candidate) {
  const auto found = std::ranges::find(all_candidates(), name_of(candidate), &Candidate::name);
  return static_cast<size_t>(found - all_candidates().begin());
}

std::string mark_of(const SearchReport& report, const Candidate* candidate) {
  const auto whole_bits = [](const Candidate* of) { return static_cast<int>(bits_per_weight(of)); };
  int n_alike = 0;
  int place = 0;
  for (const Candidate* other : reported_candidates(report.scores)) {
    if (other == candidate) place = n_alike;
    if (whole_bits(other) == whole_bits(candidate)) ++n_alike;
  }
  std::string mark = fmt::format("{}", whole_bits(candidate));
  if (n_alike > 1) mark += static_cast<char>('a' + place);
  return mark;
}

std::string cell_legend(const SearchReport& report,
                        const std::vector<const Candidate*>& candidates) {
  std::string items;
  for (const Candidate* candidate : candidates) {
    const size_t style = style_of(candidate);
    const std::string mark = mark_of(report, candidate);
    Svg icon(24, 18, mark, "");
    icon.rect({0, 0, 24, 18}, fmt::format("cell c{}", style));
    icon.text({12, 12.5}, mark, fmt::format("mark c{}", style), Anchor::kMiddle);
    items += fmt::format("<li>{}<span>{} <small>{:g} bits</small></span></li>\n",
                         icon.str("aria-hidden=\"true\""), escape(name_of(candidate)),
                         bits_per_weight(candidate));
  }
  return "<ul class=\"legend\">\n" + items + "</ul>\n";
}

std::string allocation_map(const SearchReport& report, const ReportedAllocation& row) {
  Map map =
      empty_map(report.scores, fmt::format("Formats at {}", row.budget),
                "Rows are families of groups, columns are layers, a cell is the format of one "
                "group. The table of all groups holds the same.");
  const std::vector<Family> families = families_of(report.scores);
  for (size_t family = 0; family < families.size(); ++family) {
    for (const size_t index : families[family].groups) {
      const Candidate* chosen = row.allocation.chosen[index];
      map.cells.push_back({.column = column_of(report.scores.groups[index], map),
                           .row = family,
                           .css = fmt::format("cell c{}", style_of(chosen)),
                           .mark = mark_of(report, chosen),
                           .tooltip = chosen_tooltip(report, index, chosen)});
    }
  }
  return drawn(map);
}

namespace {

// Loss for each bit that a group saves with its smallest candidate; nullopt where none is scored.
std::optional<double> price_of(const SearchReport& report, size_t group) {
  const Candidate* candidate = smallest_candidate(report, group);
  if (candidate == nullptr) return std::nullopt;
  const double saved =
      report.allocator.stored_bits(group, nullptr) - report.allocator.stored_bits(group, candidate);
  if (saved <= 0) return std::nullopt;
  return report.allocator.score(group, candidate) / saved;
}

// Of the groups that have a price; 0 where none is above 0.
double median_price(const SearchReport& report) {
  std::vector<double> prices;
  for (size_t group = 0; group < report.scores.groups.size(); ++group) {
    if (const std::optional<double> price = price_of(report, group); price > 0.0) {
      prices.push_back(*price);
    }
  }
  if (prices.empty()) return 0;
  const auto middle = prices.begin() + std::ssize(prices) / 2;
  std::ranges::nth_element(prices, middle);
  return *middle;
}

// A colour's strength for multiples of the median, 1/30 to 30.
double strength_of(double multiple) {
  constexpr double kDecades = 1.5;
  if (!(multiple > 0)) return 0.04;
  const double place = (std::log10(multiple) + kDecades) / (2 * kDecades);
  return 0.06 + 0.94 * std::clamp(place, 0.0, 1.0);
}

std::string multiple_text(double multiple) {
  return multiple >= 10 ? fmt::format("{:.0f}×", multiple) : fmt::format("{:.2g}×", multiple);
}

std::string price_key() {
  std::string items;
  for (const double multiple : {0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0}) {
    Svg icon(24, 18, multiple_text(multiple), "");
    icon.rect({0, 0, 24, 18}, "blank");
    icon.rect({0, 0, 24, 18}, "heat", strength_of(multiple));
    items +=
        fmt::format("<li>{}{}</li>\n", icon.str("aria-hidden=\"true\""), multiple_text(multiple));
  }
  return "<ul class=\"legend\">\n" + items + "</ul>\n";
}

}  // namespace

std::string price_map(const SearchReport& report) {
  Map map =
      empty_map(report.scores, "Loss for a saved bit",
                "Rows are families of groups, columns are layers; a darker cell loses more for "
                "each bit saved.");
  const double median = median_price(report);
  const std::vector<Family> families = families_of(report.scores);
  for (size_t family = 0; family < families.size(); ++family) {
    for (const size_t index : families[family].groups) {
      const std::optional<double> price = price_of(report, index);
      if (!price || median <= 0) continue;
      const ScoredGroup& group = report.scores.groups[index];
      const Candidate* smallest = smallest_candidate(report, index);
      map.cells.push_back(
          {.column = column_of(group, map),
           .row = family,
           .css = "heat",
           .opacity = std::min(strength_of(*price / median), 0.999),
           .tooltip =
               fmt::format("{}: {} of the median loss for a saved bit; KL {} with {}", group.name,
                           multiple_text(*price / median),
                           kl_text(report.allocator.score(index, smallest)), name_of(smallest))});
    }
  }
  return fmt::format(
      "<figure>\n{}{}<figcaption>Predicted KL for each bit saved when a group takes its smallest "
      "format, as a multiple of the median group's. Bits are best spent where the colour is "
      "strong.</figcaption></figure>\n",
      price_key(), drawn(map));
}

std::string share_bar(const SearchReport& report, const std::vector<size_t>& groups,
                      const Assignment& assignment) {
  constexpr double kWidth = 160;
  constexpr double kHeight = 14;
  const std::vector<CandidateUse> uses = uses_of(report, groups, assignment);
  const auto whole =
      static_cast<double>(std::max<int64_t>(1, sums_of(report, groups, assignment).n_weights));
  std::string description;
  for (const CandidateUse& use : uses) {
    description += fmt::format("{}{} {}", description.empty() ? "" : ", ", name_of(use.candidate),
                               share_text(static_cast<double>(use.sums.n_weights), whole));
  }
  Svg svg(kWidth, kHeight, "Shares of weights by format", description);
  double left = 0;
  for (const CandidateUse& use : uses) {
    const double width = kWidth * static_cast<double>(use.sums.n_weights) / whole;
    svg.rect({left, 0, width, kHeight}, fmt::format("cell c{}", style_of(use.candidate)), 1,
             fmt::format("{}: {} of weights", name_of(use.candidate),
                         share_text(static_cast<double>(use.sums.n_weights), whole)));
    if (width >= 20) {
      svg.text({left + width / 2, kHeight - 3.5}, mark_of(report, use.candidate),
               fmt::format("mark c{}", style_of(use.candidate)), Anchor::kMiddle);
    }
    left += width;
  }
  return svg.str("class=\"bar\"");
}

}  // namespace vernier::search
