#include <gtest/gtest.h>

#include "report/progress_line.h"
#include "report/table.h"
#include "report/units.h"

namespace vernier::report {
namespace {

TEST(Table, AlignsColumnsAndDropsTrailingSpaces) {
  const std::string table = format_table({{"model", Align::kLeft}, {"bits"}},
                                         {{"tiny", "16.00"}, {"tiny-nvfp4", "4.50"}});
  EXPECT_EQ(table,
            "model        bits\n"
            "----------  -----\n"
            "tiny        16.00\n"
            "tiny-nvfp4   4.50\n");
}

TEST(Table, ShortensNamesInTheMiddleToFitTheWidth) {
  const std::string table = format_table({{"module", Align::kLeft, true}, {"format", Align::kLeft}},
                                         {{"backbone.layers.0.mixer.in_proj", "nvfp4"}}, 30);
  EXPECT_EQ(table,
            "module                  format\n"
            "----------------------  ------\n"
            "backbone....er.in_proj  nvfp4\n");
}

TEST(Table, CountsCodePointsNotBytes) { EXPECT_EQ(format_table({{"x"}}, {{"½"}}), "x\n-\n½\n"); }

TEST(Units, Bytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(999'960), "1.0 MB");
  EXPECT_EQ(format_bytes(26'402'176), "26.4 MB");
}

TEST(Units, CountsGetThousandsSeparators) {
  EXPECT_EQ(format_count(7), "7");
  EXPECT_EQ(format_count(123), "123");
  EXPECT_EQ(format_count(12'070'912), "12,070,912");
  EXPECT_EQ(format_count(-123'456), "-123,456");
}

TEST(Units, Durations) {
  EXPECT_EQ(format_duration(0.44), "0.4 s");
  EXPECT_EQ(format_duration(65), "1 min 05 s");
  EXPECT_EQ(format_duration(7380), "2 h 03 min");
}

TEST(Progress, PlainLineCarriesRateAndTimeLeft) {
  const ProgressState state{"calibrating", 500, 1000, "tokens"};
  EXPECT_EQ(format_progress(state, 2.0, false), "calibrating:  50 %  250 tokens/s  2.0 s left");
}

TEST(Progress, BarFitsTheWidth) {
  const ProgressState state{"calibrating layer 12 of 52", 250, 1000, "tokens"};
  const std::string line = format_progress(state, 1.0, true, 80);
  EXPECT_LE(line.size(), 80u);
  EXPECT_NE(line.find("[#"), std::string::npos);
}

TEST(Progress, NothingDoneShowsNoRate) {
  EXPECT_EQ(format_progress({"starting", 0, 10, "tokens"}, 0, false), "starting:   0 %");
}

}  // namespace
}  // namespace vernier::report
