// Drawings as inline SVG: shapes, axes and the places of labels. Colours come from the page's style
// sheet by class, so that a drawing follows the page into dark mode and onto paper.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vernier::search {

struct Point {
  double x = 0;
  double y = 0;
};

struct Box {
  double left = 0;
  double top = 0;
  double width = 0;
  double height = 0;

  double right() const { return left + width; }
  double bottom() const { return top + height; }
};

enum class Anchor { kStart, kMiddle, kEnd };
enum class Marker { kCircle, kSquare, kTriangle, kDiamond, kCross, kPlus };
inline constexpr int kMarkers = 6;

class Svg {
 public:
  // `title` and `description` are what a screen reader says of the drawing.
  Svg(double width, double height, std::string_view title, std::string_view description);

  // Names are classes of the style sheet. A tooltip is shown where the pointer rests.
  void line(Point from, Point to, std::string_view css);
  void polyline(const std::vector<Point>& points, std::string_view css);
  void rect(const Box& box, std::string_view css, double opacity = 1,
            std::string_view tooltip = {});
  void marker(Marker shape, Point center, double radius, std::string_view css,
              std::string_view tooltip = {});
  void text(Point at, std::string_view text, std::string_view css = {},
            Anchor anchor = Anchor::kStart);
  // Upwards, centred on a point.
  void vertical_text(Point at, std::string_view text, std::string_view css);

  double width() const { return width_; }
  double height() const { return height_; }
  // The element; `attributes` are added to it as they are.
  std::string str(std::string_view attributes = {}) const;

 private:
  double width_;
  double height_;
  std::string head_;
  std::string body_;
};

// Values to places on a line. Of a logarithmic scale only values above zero have one.
struct Scale {
  double low = 0;
  double high = 1;
  double start = 0;  // where `low` is
  double end = 1;
  bool is_log = false;

  double operator()(double value) const;
  // Round values within the range, ascending: about as many as wanted, none for 0.
  std::vector<double> ticks(int wanted) const;
};

// A logarithmic scale around the values above zero, with room at both ends; 1e-3 to 1 without any.
Scale log_scale_around(const std::vector<double>& values, double start, double end);
// "0.5", "12", "1e-6"
std::string tick_text(double value);

// Grid, frame, tick labels and titles of two axes. x's places ascend, y's descend.
struct AxisTitles {
  std::string_view x;
  std::string_view y;
};
void draw_axes(Svg& svg, const Scale& x, const Scale& y, const AxisTitles& titles, int n_x_ticks,
               int n_y_ticks);

// Where labels of marks can stand without covering one another.
class LabelPlaces {
 public:
  LabelPlaces(const Box& area, double text_height) : area_(area), text_height_(text_height) {}

  // Room that is taken.
  void block(const Box& box) { blocked_.push_back(box); }
  void block_mark(Point center, double radius);
  // A line that a label covers only where no other place is near.
  void avoid_line(Point from, Point to);
  // The left end of the base line of a label near a mark, in the first free place; beside the mark
  // where none is free. The label's room is taken then.
  Point place(Point mark, std::string_view text);

 private:
  bool is_free(const Box& box, bool over_lines) const;

  Box area_;
  double text_height_;
  std::vector<Box> blocked_;
  std::vector<Box> avoided_;
};

}  // namespace vernier::search
