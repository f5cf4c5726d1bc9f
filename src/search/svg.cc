#include "search/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "search/html.h"

namespace vernier::search {
namespace {

// Coordinates to a tenth of a pixel, without trailing zeros.
std::string number(double value) {
  const double rounded = std::round(value * 10) / 10;
  return fmt::format("{}", rounded == 0 ? 0.0 : rounded);
}

std::string class_attribute(std::string_view css) {
  return css.empty() ? "" : fmt::format(" class=\"{}\"", css);
}

std::string closing(std::string_view element, std::string_view tooltip) {
  if (tooltip.empty()) return "/>\n";
  return fmt::format("><title>{}</title></{}>\n", escape(tooltip), element);
}

std::string coordinates(const std::vector<Point>& points) {
  std::string text;
  for (const Point& point : points) {
    text += fmt::format("{}{},{}", text.empty() ? "" : " ", number(point.x), number(point.y));
  }
  return text;
}

std::vector<Point> corners(Marker shape, Point c, double r) {
  switch (shape) {
    case Marker::kSquare: {
      const double h = r * 0.88;
      return {{c.x - h, c.y - h}, {c.x + h, c.y - h}, {c.x + h, c.y + h}, {c.x - h, c.y + h}};
    }
    case Marker::kTriangle:
      return {
          {c.x, c.y - 1.15 * r}, {c.x + 1.05 * r, c.y + 0.8 * r}, {c.x - 1.05 * r, c.y + 0.8 * r}};
    case Marker::kDiamond: {
      const double h = r * 1.25;
      return {{c.x, c.y - h}, {c.x + h, c.y}, {c.x, c.y + h}, {c.x - h, c.y}};
    }
    case Marker::kPlus:
    case Marker::kCross: {
      // Twelve corners of a plus; a cross is one turned by 45 degrees.
      const double turn = shape == Marker::kCross ? M_PI / 4 : 0;
      const double t = 0.4;
      std::vector<Point> points;
      for (const auto& [x, y] : {std::pair{-t, -1.2},
                                 {t, -1.2},
                                 {t, -t},
                                 {1.2, -t},
                                 {1.2, t},
                                 {t, t},
                                 {t, 1.2},
                                 {-t, 1.2},
                                 {-t, t},
                                 {-1.2, t},
                                 {-1.2, -t},
                                 {-t, -t}}) {
        points.push_back({c.x + r * (x * std::cos(turn) - y * std::sin(turn)),
                          c.y + r * (x * std::sin(turn) + y * std::cos(turn))});
      }
      return points;
    }
    case Marker::kCircle:
      break;
  }
  return {};
}

}  // namespace

Svg::Svg(double width, double height, std::string_view title, std::string_view description)
    : width_(width), height_(height) {
  head_ = fmt::format("<title>{}</title>\n<desc>{}</desc>\n", escape(title), escape(description));
}

void Svg::line(Point from, Point to, std::string_view css) {
  body_ += fmt::format("<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"{}/>\n", number(from.x),
                       number(from.y), number(to.x), number(to.y), class_attribute(css));
}

void Svg::polyline(const std::vector<Point>& points, std::string_view css) {
  body_ += fmt::format("<polyline points=\"{}\"{}/>\n", coordinates(points), class_attribute(css));
}

void Svg::rect(const Box& box, std::string_view css, double opacity, std::string_view tooltip) {
  body_ +=
      fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"{}", number(box.left),
                  number(box.top), number(box.width), number(box.height), class_attribute(css));
  if (opacity < 1) body_ += fmt::format(" fill-opacity=\"{:.2f}\"", opacity);
  body_ += closing("rect", tooltip);
}

void Svg::marker(Marker shape, Point center, double radius, std::string_view css,
                 std::string_view tooltip) {
  if (shape == Marker::kCircle) {
    body_ += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"{}\"{}", number(center.x),
                         number(center.y), number(radius), class_attribute(css)) +
             closing("circle", tooltip);
    return;
  }
  body_ += fmt::format("<polygon points=\"{}\"{}", coordinates(corners(shape, center, radius)),
                       class_attribute(css)) +
           closing("polygon", tooltip);
}

void Svg::text(Point at, std::string_view text, std::string_view css, Anchor anchor) {
  constexpr std::array kAnchors = {"", " text-anchor=\"middle\"", " text-anchor=\"end\""};
  body_ += fmt::format("<text x=\"{}\" y=\"{}\"{}{}>{}</text>\n", number(at.x), number(at.y),
                       kAnchors[static_cast<size_t>(anchor)], class_attribute(css), escape(text));
}

void Svg::vertical_text(Point at, std::string_view text, std::string_view css) {
  body_ += fmt::format(
      "<text transform=\"translate({} {}) rotate(-90)\" text-anchor=\"middle\"{}>{}</text>\n",
      number(at.x), number(at.y), class_attribute(css), escape(text));
}

std::string Svg::str(std::string_view attributes) const {
  return fmt::format(
      "<svg role=\"img\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\"{2}{3}>\n{4}{5}"
      "</svg>\n",
      number(width_), number(height_), attributes.empty() ? "" : " ", attributes, head_, body_);
}

double Scale::operator()(double value) const {
  const auto place = [&](double v) { return is_log ? std::log10(v) : v; };
  const double share = (place(value) - place(low)) / (place(high) - place(low));
  return start + share * (end - start);
}

namespace {

constexpr double kRounding = 1e-9;

// Multiples of a power of ten: all of them, or where that is too many, every second, third, ...
std::vector<double> decades(double low, double high, int wanted,
                            const std::vector<double>& within) {
  const auto first = static_cast<int>(std::floor(std::log10(low) + kRounding));
  const auto last = static_cast<int>(std::floor(std::log10(high) + kRounding));
  const int stride = std::max(1, (last - first + wanted - 1) / wanted);
  std::vector<double> values;
  for (int exponent = first; exponent <= last; ++exponent) {
    if (exponent % stride != 0) continue;
    for (const double factor : within) {
      const double value = factor * std::pow(10.0, exponent);
      if (value >= low * (1 - kRounding) && value <= high * (1 + kRounding)) {
        values.push_back(value);
      }
    }
  }
  return values;
}

std::vector<double> log_ticks(double low, double high, int wanted) {
  std::vector<double> values = decades(low, high, wanted, {1});
  if (values.size() < 3) values = decades(low, high, wanted, {1, 3});
  if (values.size() < 3) values = decades(low, high, wanted, {1, 2, 5});
  return values;
}

std::vector<double> linear_ticks(double low, double high, int wanted) {
  const double rough = (high - low) / std::max(wanted, 1);
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough * (1 - kRounding)) {
      step = factor * power;
      break;
    }
  }
  std::vector<double> values;
  const auto last = static_cast<int64_t>(std::floor(high / step + kRounding));
  for (auto index = static_cast<int64_t>(std::ceil(low / step - kRounding)); index <= last;
       ++index) {
    values.push_back(static_cast<double>(index) * step);
  }
  return values;
}

}  // namespace

std::vector<double> Scale::ticks(int wanted) const {
  if (wanted == 0) return {};
  return is_log ? log_ticks(low, high, wanted) : linear_ticks(low, high, wanted);
}

Scale log_scale_around(const std::vector<double>& values, double start, double end) {
  constexpr double kRoom = 1.5;
  double low = 0;
  double high = 0;
  for (const double value : values) {
    if (!(value > 0) || !std::isfinite(value)) continue;
    low = low == 0 ? value : std::min(low, value);
    high = std::max(high, value);
  }
  if (high == 0) return {.low = 1e-3, .high = 1, .start = start, .end = end, .is_log = true};
  return {.low = low / kRoom, .high = high * kRoom, .start = start, .end = end, .is_log = true};
}

std::string tick_text(double value) {
  const double size = std::abs(value);
  if (size == 0 || (size >= 0.999e-3 && size < 1e6)) return fmt::format("{:.6g}", value);
  const auto exponent = static_cast<int>(std::floor(std::log10(size) + kRounding));
  return fmt::format("{:.3g}e{}", value / std::pow(10.0, exponent), exponent);
}

void draw_axes(Svg& svg, const Scale& x, const Scale& y, const AxisTitles& titles, int n_x_ticks,
               int n_y_ticks) {
  constexpr double kTickGap = 7;
  for (const double value : y.ticks(n_y_ticks)) {
    svg.line({x.start, y(value)}, {x.end, y(value)}, "grid");
    svg.text({x.start - kTickGap, y(value) + 4}, tick_text(value), "tick", Anchor::kEnd);
  }
  for (const double value : x.ticks(n_x_ticks)) {
    svg.line({x(value), y.start}, {x(value), y.end}, "grid");
    svg.text({x(value), y.start + 17}, tick_text(value), "tick", Anchor::kMiddle);
  }
  svg.line({x.start, y.start}, {x.end, y.start}, "axis");
  svg.line({x.start, y.start}, {x.start, y.end}, "axis");
  if (!titles.x.empty()) {
    svg.text({(x.start + x.end) / 2, y.start + 38}, titles.x, "label", Anchor::kMiddle);
  }
  if (!titles.y.empty()) svg.vertical_text({13, (y.start + y.end) / 2}, titles.y, "label");
}

void LabelPlaces::block_mark(Point center, double radius) {
  block({center.x - radius, center.y - radius, 2 * radius, 2 * radius});
}

void LabelPlaces::avoid_line(Point from, Point to) {
  constexpr double kStep = 4;
  const double length = std::hypot(to.x - from.x, to.y - from.y);
  const int n_steps = std::max(1, static_cast<int>(length / kStep));
  for (int step = 0; step <= n_steps; ++step) {
    const double share = static_cast<double>(step) / n_steps;
    avoided_.push_back({from.x + share * (to.x - from.x), from.y + share * (to.y - from.y), 0, 0});
  }
}

namespace {

bool overlap(const Box& a, const Box& b) {
  return a.left < b.right() && b.left < a.right() && a.top < b.bottom() && b.top < a.bottom();
}

}  // namespace

bool LabelPlaces::is_free(const Box& box, bool over_lines) const {
  if (box.left < area_.left || box.right() > area_.right()) return false;
  if (box.top < area_.top || box.bottom() > area_.bottom()) return false;
  const auto hits = [&](const Box& other) { return overlap(box, other); };
  if (!over_lines && std::ranges::any_of(avoided_, hits)) return false;
  return std::ranges::none_of(blocked_, hits);
}

Point LabelPlaces::place(Point mark, std::string_view text) {
  // Of a sans serif font: an average letter's width, and what of a line is above its base line.
  constexpr double kLetterWidth = 0.56;
  constexpr double kAscent = 0.8;
  const double width = kLetterWidth * text_height_ * static_cast<double>(text.size());
  const auto box_at = [&](double x, double y) {
    return Box{x, y - text_height_ / 2, width, text_height_};
  };
  const auto take = [&](const Box& box) {
    block(box);
    return Point{box.left, box.top + kAscent * text_height_};
  };
  struct Round {
    double lines_away;
    bool over_lines;
  };
  for (const Round round : {Round{1, false},
                            {1.5, false},
                            {2, false},
                            {2.5, false},
                            {1, true},
                            {1.5, true},
                            {2, true},
                            {3, true},
                            {4, true}}) {
    const double up = round.lines_away * (text_height_ + 1);
    for (const Box& box :
         {box_at(mark.x + 7, mark.y - up), box_at(mark.x + 10, mark.y),
          box_at(mark.x - 10 - width, mark.y), box_at(mark.x + 7, mark.y + up),
          box_at(mark.x - 7 - width, mark.y - up), box_at(mark.x - 7 - width, mark.y + up),
          box_at(mark.x - width / 2, mark.y - up), box_at(mark.x - width / 2, mark.y + up)}) {
      if (is_free(box, round.over_lines)) return take(box);
    }
  }
  const double right_most = std::max(area_.left, area_.right() - width);
  return take(box_at(std::min(mark.x + 10, right_most), mark.y));
}

}  // namespace vernier::search
