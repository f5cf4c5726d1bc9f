#include "search/svg.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "search/html.h"

namespace vernier::search {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pointwise;

TEST(Html, EscapesWhatMarkupMeansSomethingBy) {
  EXPECT_EQ(escape("a < b && \"c\" > 'd'"), "a &lt; b &amp;&amp; &quot;c&quot; &gt; &#39;d&#39;");
  EXPECT_EQ(escape("± 2×"), "± 2×");
}

TEST(Html, TableMarksHeadingsNumbersAndTotals) {
  const std::string table =
      html_table("sizes <all>", {{"name", false}, {"bytes"}}, {{"a", "1"}, {"sum", "1"}}, true);
  EXPECT_THAT(table, HasSubstr("<caption>sizes &lt;all&gt;</caption>"));
  EXPECT_THAT(table, HasSubstr("<th scope=\"col\" class=\"n\">bytes</th>"));
  EXPECT_THAT(table, HasSubstr("<tr><th scope=\"row\">a</th><td class=\"n\">1</td></tr>"));
  EXPECT_THAT(table, HasSubstr("<tr class=\"total\"><th scope=\"row\">sum</th>"));
}

TEST(Svg, ElementsHoldCoordinatesClassesAndTooltips) {
  Svg svg(100, 50, "a title", "what <it> is");
  svg.line({0, 1}, {2.04, -0.01}, "grid");
  svg.rect({1, 2, 3, 4}, "cell", 0.5, "x & y");
  svg.marker(Marker::kCircle, {5, 6}, 2, "dot");
  svg.text({7, 8}, "<a>", "tick", Anchor::kEnd);
  const std::string text = svg.str("class=\"chart\"");
  EXPECT_THAT(text, HasSubstr("<svg role=\"img\" viewBox=\"0 0 100 50\""));
  EXPECT_THAT(text, HasSubstr("class=\"chart\">"));
  EXPECT_THAT(text, HasSubstr("<title>a title</title>\n<desc>what &lt;it&gt; is</desc>"));
  EXPECT_THAT(text, HasSubstr("<line x1=\"0\" y1=\"1\" x2=\"2\" y2=\"0\" class=\"grid\"/>"));
  EXPECT_THAT(text, HasSubstr("fill-opacity=\"0.50\"><title>x &amp; y</title></rect>"));
  EXPECT_THAT(text, HasSubstr("<circle cx=\"5\" cy=\"6\" r=\"2\" class=\"dot\"/>"));
  EXPECT_THAT(text, HasSubstr("text-anchor=\"end\" class=\"tick\">&lt;a&gt;</text>"));
}

TEST(Scale, PlacesEndsAndMiddle) {
  const Scale linear{.low = 4, .high = 8, .start = 100, .end = 300};
  EXPECT_DOUBLE_EQ(linear(4), 100);
  EXPECT_DOUBLE_EQ(linear(6), 200);
  const Scale log{.low = 1e-4, .high = 1, .start = 200, .end = 0, .is_log = true};
  EXPECT_NEAR(log(1e-4), 200, 1e-9);
  EXPECT_NEAR(log(1e-2), 100, 1e-9);
}

TEST(Scale, TicksAreRoundValuesWithinTheRange) {
  EXPECT_THAT((Scale{.low = 4.3, .high = 8.2}.ticks(5)), ElementsAre(5, 6, 7, 8));
  EXPECT_THAT((Scale{.low = 0, .high = 0.5}.ticks(5)),
              Pointwise(DoubleNear(1e-12), {0.0, 0.1, 0.2, 0.3, 0.4, 0.5}));
  EXPECT_THAT((Scale{.low = 0.5e-4, .high = 2, .is_log = true}.ticks(6)),
              Pointwise(DoubleNear(1e-12), {1e-4, 1e-3, 1e-2, 1e-1, 1.0}));
  // Less than two decades: values between powers of ten.
  EXPECT_THAT((Scale{.low = 0.8e-2, .high = 0.15, .is_log = true}.ticks(6)),
              Pointwise(DoubleNear(1e-12), {0.01, 0.03, 0.1}));
  EXPECT_THAT((Scale{.low = 0, .high = 1}.ticks(0)), ElementsAre());
}

TEST(Scale, ManyDecadesGiveFewTicks) {
  const std::vector<double> ticks = Scale{.low = 1e-14, .high = 1, .is_log = true}.ticks(5);
  EXPECT_LE(ticks.size(), 6u);
  EXPECT_GE(ticks.size(), 4u);
}

TEST(Scale, AroundValuesLeavesOutWhatHasNoLogarithm) {
  const Scale scale = log_scale_around({0, -1, NAN, INFINITY, 0.01, 0.1}, 0, 1);
  EXPECT_LT(scale.low, 0.01);
  EXPECT_GT(scale.low, 0.001);
  EXPECT_GT(scale.high, 0.1);
  EXPECT_LT(scale.high, 1);
  EXPECT_DOUBLE_EQ(log_scale_around({0}, 0, 1).high, 1);
}

TEST(Scale, TickTexts) {
  EXPECT_EQ(tick_text(0), "0");
  EXPECT_EQ(tick_text(12), "12");
  EXPECT_EQ(tick_text(0.001), "0.001");
  EXPECT_EQ(tick_text(1e-4), "1e-4");
  EXPECT_EQ(tick_text(std::pow(10.0, -7)), "1e-7");
  EXPECT_EQ(tick_text(3e-5), "3e-5");
}

TEST(LabelPlaces, LabelsAvoidMarksAndOneAnotherAndTheEdge) {
  LabelPlaces places({0, 0, 200, 100}, 12);
  places.block_mark({100, 50}, 5);
  const Point first = places.place({100, 50}, "label");
  const Point second = places.place({100, 50}, "label");
  EXPECT_TRUE(first.x > 105 || first.y < 45);
  const double width = 0.56 * 12 * 5;
  EXPECT_TRUE(std::abs(first.y - second.y) >= 12 || std::abs(first.x - second.x) >= width);
  // No room to the right of it.
  EXPECT_LT(places.place({195, 20}, "label").x, 195 - 10);
}

}  // namespace
}  // namespace vernier::search
