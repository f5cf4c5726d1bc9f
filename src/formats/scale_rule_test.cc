#include "formats/scale_rule.h"

#include <gmock/gmock.h>

#include <cmath>

#include "base/error.h"

namespace vernier::formats {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(MultiplierGrid, HasThirtyNineByDefault) {
  const std::vector<float> grid = multiplier_grid({});
  ASSERT_EQ(grid.size(), 39u);
  const float spacing = 3.75f / 38;
  EXPECT_EQ(grid[0], 0.25f);
  EXPECT_EQ(grid[1], 0.25f + spacing);
  EXPECT_EQ(grid[18], std::fma(18.0f, spacing, 0.25f));
  // From the middle on the grid counts down from its end.
  EXPECT_EQ(grid[19], std::fma(-19.0f, spacing, 4.0f));
  EXPECT_EQ(grid[37], 4.0f - spacing);
  EXPECT_EQ(grid[38], 4.0f);
}

TEST(MultiplierGrid, IsOneAndOneAndAHalfForFourOverSix) {
  EXPECT_THAT(multiplier_grid({.start = 1.0f, .stop = 1.5f, .step = 0.5f}),
              ElementsAre(1.0f, 1.5f));
}

TEST(MultiplierGrid, MayBeOneMultiplier) {
  EXPECT_THAT(multiplier_grid({.start = 0.9f, .stop = 0.9f}), ElementsAre(0.9f));
}

void expect_rejected(const ScaleRule& rule, const std::string& found) {
  try {
    multiplier_grid(rule);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
    EXPECT_THAT(error.message(), HasSubstr("the multiplier grid has " + found));
    EXPECT_THAT(error.message(), HasSubstr("expected 0 < start <= stop, step > 0"));
  }
}

TEST(MultiplierGrid, RejectsWhatIsNoGrid) {
  expect_rejected({.start = 0}, "start 0, stop 4 and step 0.1");
  expect_rejected({.start = 2, .stop = 1}, "start 2, stop 1 and step 0.1");
  expect_rejected({.step = 0}, "start 0.25, stop 4 and step 0");
  expect_rejected({.step = -1}, "start 0.25, stop 4 and step -1");
  expect_rejected({.step = 1e-6f}, "start 0.25, stop 4 and step 1e-06");
}

TEST(ScaleFromAmax, MultipliesOnCudaAndDividesOnCpu) {
  EXPECT_EQ(scale_from_amax(0.2373046875f, 2688, Arithmetic::kCpu), bits_float(0x38b92492));
  EXPECT_EQ(scale_from_amax(0.2373046875f, 2688, Arithmetic::kCuda), bits_float(0x38b92493));
}

TEST(StorableAmax, IsNeverZeroNorTooSmall) {
  for (const float divisor : {448.0f, 1536.0f, 2688.0f}) {
    for (const Arithmetic arithmetic : {Arithmetic::kCpu, Arithmetic::kCuda}) {
      EXPECT_EQ(scale_from_amax(storable_amax(0, divisor), divisor, arithmetic), 1.0f);
      EXPECT_GE(scale_from_amax(storable_amax(1e-44f, divisor), divisor, arithmetic), 0x1p-126f);
    }
    EXPECT_EQ(storable_amax(1e-30f, divisor), 1e-30f);
  }
}

}  // namespace
}  // namespace vernier::formats
