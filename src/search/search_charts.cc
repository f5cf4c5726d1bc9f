// Figures with axes: the frontier, prediction against measurement, sensitivity by layer.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "search/html.h"
#include "search/report_parts.h"
#include "search/search_figures.h"
#include "search/svg.h"

namespace vernier::search {
namespace {

constexpr double kChartWidth = 500;
constexpr double kChartHeight = 380;
constexpr double kLabelHeight = 13;

// Where the axes of a chart lie.
constexpr double kLeft = 64;
constexpr double kRight = kChartWidth - 14;
constexpr double kTop = 14;
constexpr double kBottom = kChartHeight - 50;
constexpr Box kLabelArea = {kLeft, 0, kRight - kLeft, kBottom};

bool can_show(double value) { return value > 0 && std::isfinite(value); }

// Comparisons that are no allocation of the report: those have marks of their own.
std::vector<const Comparison*> other_comparisons(const SearchReport& report) {
  std::vector<const Comparison*> others;
  for (const Comparison& comparison : report.comparisons) {
    const auto is_same = [&](const ReportedAllocation& row) {
      return row.allocation.bits == comparison.bits &&
             row.allocation.predicted_kl == comparison.predicted_kl;
    };
    if (std::ranges::none_of(report.allocations, is_same)) others.push_back(&comparison);
  }
  return others;
}

// Room for all points but those that are much better than anything asked for: they would press the
// rest into a corner.
Scale frontier_losses(const SearchReport& report) {
  constexpr double kShownBelow = 20;
  std::vector<double> marks;
  for (const ReportedAllocation& row : report.allocations) {
    marks.push_back(row.allocation.predicted_kl);
    if (row.measured_kl) marks.push_back(row.measured_kl->mean);
  }
  for (const Comparison* row : other_comparisons(report)) {
    marks.insert(marks.end(), {row->predicted_kl, row->measured_kl});
  }
  std::erase_if(marks, [](double value) { return !can_show(value); });
  const double least = marks.empty() ? 0 : std::ranges::min(marks) / kShownBelow;
  for (const FrontierPoint& point : report.frontier) {
    if (point.predicted_kl > least) marks.push_back(point.predicted_kl);
  }
  if (least > 0) marks.push_back(least);
  return log_scale_around(marks, kBottom, kTop);
}

Scale frontier_bits(const SearchReport& report, const Scale& losses) {
  double low = INFINITY;
  double high = 0;
  const auto take = [&](double bits) {
    low = std::min(low, bits);
    high = std::max(high, bits);
  };
  for (const FrontierPoint& point : report.frontier) {
    if (point.predicted_kl >= losses.low) take(point.bits);
  }
  for (const ReportedAllocation& row : report.allocations) take(row.allocation.bits);
  for (const Comparison* row : other_comparisons(report)) take(row->bits);
  if (!(low <= high)) low = high = 8;
  const double room = std::max(0.04 * (high - low), 0.1);
  return {.low = low - room, .high = high + room, .start = kLeft, .end = kRight};
}

// Between two points of the frontier the left one is the best: a staircase. Steps of less than half
// a pixel are left out.
std::vector<Point> staircase(const std::vector<FrontierPoint>& frontier, const Scale& x,
                             const Scale& y) {
  std::vector<Point> points;
  for (const FrontierPoint& point : frontier) {
    if (!can_show(point.predicted_kl) || point.predicted_kl < y.low) continue;
    const Point at{x(point.bits), y(point.predicted_kl)};
    const bool is_last = &point == &frontier.back();
    if (!points.empty()) {
      const Point last = points.back();
      if (!is_last && at.x - last.x < 0.5 && at.y - last.y < 0.5) continue;
      points.push_back({at.x, last.y});
    }
    points.push_back(at);
  }
  return points;
}

void draw_estimate(Svg& svg, double x, const Scale& y, const eval::Estimate& estimate,
                   const std::string& tooltip) {
  const double above = estimate.mean + estimate.standard_error;
  const double below = std::max(estimate.mean - estimate.standard_error, y.low);
  if (std::isfinite(estimate.standard_error)) {
    svg.line({x, y(std::min(above, y.high))}, {x, y(below)}, "measured-line");
  }
  svg.marker(Marker::kDiamond, {x, y(estimate.mean)}, 4.5, "measured", tooltip);
}

void draw_comparisons(Svg& svg, const SearchReport& report, const Scale& x, const Scale& y) {
  for (const Comparison* row : other_comparisons(report)) {
    const std::string tooltip =
        fmt::format("{}: {:.3f} bits a weight, predicted KL {}, measured {}", row->label, row->bits,
                    kl_text(row->predicted_kl), kl_text(row->measured_kl));
    if (can_show(row->measured_kl)) {
      svg.marker(Marker::kDiamond, {x(row->bits), y(row->measured_kl)}, 4.5, "measured", tooltip);
    }
    if (can_show(row->predicted_kl)) {
      svg.marker(Marker::kSquare, {x(row->bits), y(row->predicted_kl)}, 5, "other", tooltip);
    }
  }
}

void draw_allocations(Svg& svg, const SearchReport& report, const Scale& x, const Scale& y) {
  for (const ReportedAllocation& row : report.allocations) {
    const Allocation& allocation = row.allocation;
    std::string tooltip = fmt::format("{}: {:.3f} bits a weight, predicted KL {}", row.budget,
                                      allocation.bits, kl_text(allocation.predicted_kl));
    if (row.measured_kl) tooltip += ", measured " + kl_text(*row.measured_kl);
    if (row.measured_kl && can_show(row.measured_kl->mean)) {
      draw_estimate(svg, x(allocation.bits), y, *row.measured_kl, tooltip);
    }
    if (can_show(allocation.predicted_kl)) {
      svg.marker(Marker::kCircle, {x(allocation.bits), y(allocation.predicted_kl)}, 5.5, "chosen",
                 tooltip);
    }
  }
}

struct LabelledMark {
  Point mark;
  std::string label;
};

// All marks take their room before the first label does.
void draw_labels(Svg& svg, LabelPlaces& places, const std::vector<LabelledMark>& marks) {
  for (const LabelledMark& mark : marks) places.block_mark(mark.mark, 6);
  for (const LabelledMark& mark : marks) {
    if (!mark.label.empty()) svg.text(places.place(mark.mark, mark.label), mark.label, "name");
  }
}

void label_frontier(Svg& svg, const SearchReport& report, const Scale& x, const Scale& y,
                    const std::vector<Point>& line) {
  LabelPlaces places(kLabelArea, kLabelHeight);
  for (size_t at = 1; at < line.size(); ++at) places.avoid_line(line[at - 1], line[at]);
  std::vector<LabelledMark> marks;
  const auto add = [&](double bits, double loss, const std::string& label) {
    if (can_show(loss)) marks.push_back({{x(bits), y(loss)}, label});
  };
  for (const ReportedAllocation& row : report.allocations) {
    add(row.allocation.bits, row.allocation.predicted_kl, row.budget);
    if (row.measured_kl) add(row.allocation.bits, row.measured_kl->mean, "");
  }
  for (const Comparison* row : other_comparisons(report)) {
    add(row->bits, row->predicted_kl, row->label);
    add(row->bits, row->measured_kl, "");
  }
  draw_labels(svg, places, marks);
}

std::string key_item(Marker shape, std::string_view css, std::string_view text) {
  Svg icon(14, 14, text, "");
  icon.marker(shape, {7, 7}, 4.5, css);
  return fmt::format("<li>{}{}</li>", icon.str("aria-hidden=\"true\""), escape(text));
}

std::string figure(const std::string& drawing, const std::string& key, std::string_view caption) {
  return fmt::format("<figure>\n{}{}<figcaption>{}</figcaption></figure>\n", drawing,
                     key.empty() ? "" : "<ul class=\"legend\">" + key + "</ul>\n", escape(caption));
}

}  // namespace

std::string frontier_figure(const SearchReport& report) {
  const Scale y = frontier_losses(report);
  const Scale x = frontier_bits(report, y);
  Svg svg(kChartWidth, kChartHeight, "Predicted KL against bits",
          fmt::format("{} points of the frontier, {} allocations marked. The tables hold the "
                      "numbers.",
                      report.frontier.size(), report.allocations.size()));
  draw_axes(svg, x, y, {"stored bits a weight", "KL, nats a position"}, 8, 6);
  const std::vector<Point> line = staircase(report.frontier, x, y);
  if (!line.empty()) svg.polyline(line, "frontier");
  draw_comparisons(svg, report, x, y);
  draw_allocations(svg, report, x, y);
  label_frontier(svg, report, x, y, line);

  const bool has_others = !other_comparisons(report).empty();
  const bool has_measured =
      has_others || std::ranges::any_of(report.allocations, [](const ReportedAllocation& row) {
        return row.measured_kl.has_value();
      });
  std::string key = "<li><span class=\"stroke\"></span>frontier, predicted</li>";
  if (!report.allocations.empty()) {
    key += key_item(Marker::kCircle, "chosen", "allocation, predicted");
  }
  if (has_others) key += key_item(Marker::kSquare, "other", "for comparison, predicted");
  if (has_measured) key += key_item(Marker::kDiamond, "measured", "measured (± standard error)");
  return figure(svg.str("class=\"chart\""), key,
                "Lower left is better. On the frontier nothing has both fewer bits and less "
                "predicted loss; points of no loss lie below a logarithmic axis.");
}

std::string comparison_figure(const SearchReport& report) {
  std::vector<double> losses;
  for (const Comparison& row : report.comparisons) {
    losses.insert(losses.end(), {row.predicted_kl, row.measured_kl});
  }
  const Scale x = log_scale_around(losses, kLeft, kRight);
  const Scale y = log_scale_around(losses, kBottom, kTop);
  Svg svg(kChartWidth, kChartHeight, "Predicted against measured KL",
          fmt::format("{} comparisons around the diagonal where both are equal. The table holds "
                      "the numbers.",
                      report.comparisons.size()));
  draw_axes(svg, x, y, {"predicted KL, nats a position", "measured KL, nats a position"}, 5, 6);
  LabelPlaces places(kLabelArea, kLabelHeight);
  svg.line({x(x.low), y(x.low)}, {x(x.high), y(x.high)}, "diagonal");
  places.avoid_line({x(x.low), y(x.low)}, {x(x.high), y(x.high)});
  if (x.high > 4 * x.low) {
    svg.line({x(x.low), y(2 * x.low)}, {x(x.high / 2), y(x.high)}, "factor");
    svg.line({x(2 * x.low), y(x.low)}, {x(x.high), y(x.high / 2)}, "factor");
  }
  std::vector<LabelledMark> marks;
  for (const Comparison& row : report.comparisons) {
    if (!can_show(row.predicted_kl) || !can_show(row.measured_kl)) continue;
    marks.push_back({{x(row.predicted_kl), y(row.measured_kl)}, row.label});
    svg.marker(Marker::kCircle, marks.back().mark, 5.5, "chosen",
               fmt::format("{}: predicted {}, measured {}", row.label, kl_text(row.predicted_kl),
                           kl_text(row.measured_kl)));
  }
  draw_labels(svg, places, marks);
  return figure(svg.str("class=\"chart\""), "",
                "Solid line: predicted equals measured. Dashed lines: a factor of two.");
}

namespace {

constexpr double kPanelWidth = 340;
constexpr double kPanelHeight = 200;

Scale layer_scale(const Scores& scores) {
  int last = 0;
  for (const ScoredGroup& group : scores.groups) last = std::max(last, group.layer);
  return {.low = -0.5, .high = last + 0.5, .start = 66, .end = kPanelWidth - 10};
}

Scale loss_scale(const SearchReport& report) {
  std::vector<double> losses;
  for (size_t group = 0; group < report.scores.groups.size(); ++group) {
    for (const Candidate* candidate : report.scores.candidates) {
      if (has_score(report.scores, group, candidate)) {
        losses.push_back(report.allocator.score(group, candidate));
      }
    }
  }
  return log_scale_around(losses, kPanelHeight - 40, 10);
}

// A loss of nothing at all lies on the axis.
void draw_candidate(Svg& svg, const SearchReport& report, const Family& family,
                    const Candidate* candidate, const Scale& x, const Scale& y) {
  struct Mark {
    Point at;
    std::string tooltip;
  };
  std::vector<Mark> marks;
  std::vector<Point> line;
  for (const size_t index : family.groups) {
    if (!has_score(report.scores, index, candidate)) continue;
    const ScoredGroup& group = report.scores.groups[index];
    const double loss = report.allocator.score(index, candidate);
    const double place = group.layer < 0 ? (x.low + x.high) / 2 : group.layer;
    line.push_back({x(place), y(can_show(loss) ? loss : y.low)});
    marks.push_back(
        {line.back(), fmt::format("{}, {}: {}", group.name, candidate->name, kl_text(loss))});
  }
  const size_t style = style_of(candidate);
  if (line.size() > 1) svg.polyline(line, fmt::format("link c{}", style));
  for (const Mark& mark : marks) {
    svg.marker(static_cast<Marker>(style % kMarkers), mark.at, 3.2, fmt::format("dot c{}", style),
               mark.tooltip);
  }
}

std::string sensitivity_panel(const SearchReport& report, const Family& family, const Scale& x,
                              const Scale& y) {
  Svg svg(kPanelWidth, kPanelHeight, fmt::format("Sensitivity of {}", family.name),
          fmt::format("Predicted KL by layer and format of {} groups", family.groups.size()));
  const bool is_outside = report.scores.groups[family.groups.front()].layer < 0;
  const Scale shown = is_outside ? Scale{.low = -1, .high = 0, .start = x.start, .end = x.end} : x;
  draw_axes(svg, shown, y, {"", "KL, nats"}, is_outside ? 0 : 7, 5);
  svg.text({(x.start + x.end) / 2, kPanelHeight - 6}, is_outside ? "outside the stack" : "layer",
           "label", Anchor::kMiddle);
  for (const Candidate* candidate : report.scores.candidates) {
    draw_candidate(svg, report, family, candidate, shown, y);
  }
  return fmt::format("<div class=\"panel-chart\"><h4>{}</h4>\n{}</div>\n", escape(family.name),
                     svg.str("class=\"chart\""));
}

}  // namespace

std::string sensitivity_figures(const SearchReport& report) {
  const Scale x = layer_scale(report.scores);
  const Scale y = loss_scale(report);
  std::string key;
  for (const Candidate* candidate : report.scores.candidates) {
    const size_t style = style_of(candidate);
    key += key_item(static_cast<Marker>(style % kMarkers), fmt::format("dot c{}", style),
                    candidate->name);
  }
  std::string panels;
  for (const Family& family : families_of(report.scores)) {
    panels += sensitivity_panel(report, family, x, y);
  }
  return fmt::format(
      "<figure>\n<ul class=\"legend\">{}</ul>\n<div "
      "class=\"panels\">\n{}</div>\n<figcaption>Predicted KL in nats a position "
      "if this group alone takes the format ({} scores), on one logarithmic scale for all "
      "families.</figcaption></figure>\n",
      key, panels, title_of(report.kind));
}

}  // namespace vernier::search
