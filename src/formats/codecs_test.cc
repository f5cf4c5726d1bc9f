// The scalar codecs, exhaustively over codes and around every midpoint, against nearest-value
// searches in exact arithmetic.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "formats/bf16.h"
#include "formats/e2m1.h"
#include "formats/e4m3.h"
#include "formats/fp16.h"

namespace vernier::formats {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Checks that `encode` rounds to nearest, ties to the even code, between the consecutive
// non-negative values of codes 0 ... top, on both signs.
template <class Code, class Decode, class Encode>
void expect_nearest_even(Code top, Code sign, Decode decode, Encode encode) {
  for (Code code = 0; code < top; ++code) {
    const Code next = static_cast<Code>(code + 1);
    const double midpoint = (static_cast<double>(decode(code)) + decode(next)) / 2;
    const auto tie = static_cast<float>(midpoint);
    ASSERT_EQ(static_cast<double>(tie), midpoint);
    const Code even = code % 2 == 0 ? code : next;
    EXPECT_EQ(encode(tie), even) << midpoint;
    EXPECT_EQ(encode(std::nextafter(tie, 0.0f)), code) << midpoint;
    EXPECT_EQ(encode(std::nextafter(tie, kInfinity)), next) << midpoint;
    EXPECT_EQ(encode(-tie), even | sign) << midpoint;
  }
}

TEST(E4m3, DecodesEveryCode) {
  for (int code = 0; code < 256; ++code) {
    const int exponent = code >> 3 & 15;
    const int mantissa = code & 7;
    const float value = e4m3_to_float(static_cast<uint8_t>(code));
    EXPECT_EQ(std::signbit(value), code >= 128);
    if ((code & 0x7F) == 0x7F) {
      EXPECT_TRUE(std::isnan(value));
      continue;
    }
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    EXPECT_EQ(std::fabs(value), magnitude);
    EXPECT_EQ(float_to_e4m3(value), code);
    EXPECT_EQ(float_to_e4m3_saturating(value), code);
  }
}

TEST(E4m3, RoundsToNearestEven) {
  expect_nearest_even<uint8_t>(kE4m3MaxCode, 0x80, e4m3_to_float, float_to_e4m3);
  expect_nearest_even<uint8_t>(kE4m3MaxCode, 0x80, e4m3_to_float, float_to_e4m3_saturating);
}

TEST(E4m3, OverflowsPastTheTieAt464) {
  EXPECT_EQ(float_to_e4m3(464.0f), 0x7E);
  EXPECT_EQ(float_to_e4m3(std::nextafter(464.0f, 500.0f)), 0x7F);
  EXPECT_EQ(float_to_e4m3(-465.0f), 0xFF);
  EXPECT_EQ(float_to_e4m3(kInfinity), 0x7F);
  EXPECT_EQ(float_to_e4m3(-kInfinity), 0xFF);
  EXPECT_EQ(float_to_e4m3(kNan) & 0x7F, 0x7F);
}

TEST(E4m3, SaturatesWhereAsked) {
  EXPECT_EQ(float_to_e4m3_saturating(465.0f), 0x7E);
  EXPECT_EQ(float_to_e4m3_saturating(-kInfinity), 0xFE);
  EXPECT_EQ(float_to_e4m3_saturating(kNan) & 0x7F, 0x7F);
}

TEST(E4m3, KeepsTheSignOfZero) {
  EXPECT_EQ(float_to_e4m3(0x1p-10f), 0x00);
  EXPECT_EQ(float_to_e4m3(-0x1p-10f), 0x80);
  EXPECT_EQ(float_to_e4m3(-1e-30f), 0x80);
  EXPECT_EQ(float_to_e4m3(-0.0f), 0x80);
}

TEST(E2m1, DecodesEveryCode) {
  constexpr float kValues[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  for (uint8_t code = 0; code < 16; ++code) {
    EXPECT_EQ(e2m1_to_float(code), code < 8 ? kValues[code] : -kValues[code - 8]);
  }
  EXPECT_FALSE(std::signbit(e2m1_to_float(8)));
}

TEST(E2m1, RoundsToNearestEven) {
  expect_nearest_even<uint8_t>(7, 8, e2m1_to_float, float_to_e2m1);
}

TEST(E2m1, SaturatesAndSetsTheSignBelowZero) {
  EXPECT_EQ(float_to_e2m1(1e30f), 7);
  EXPECT_EQ(float_to_e2m1(-kInfinity), 15);
  EXPECT_EQ(float_to_e2m1(-1e-30f), 8);
  EXPECT_EQ(float_to_e2m1(-0.0f), 0);
}

TEST(Bf16, RoundTripsEveryCode) {
  for (uint32_t code = 0; code < 0x10000; ++code) {
    const auto bf16 = static_cast<uint16_t>(code);
    const float value = bf16_to_float(bf16);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(value))));
    } else {
      EXPECT_EQ(float_to_bf16(value), bf16);
    }
  }
}

TEST(Bf16, RoundsToNearestEven) {
  expect_nearest_even<uint16_t>(0x7F7F, 0x8000, bf16_to_float, float_to_bf16);
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7F80);
}

TEST(Fp16, RoundTripsEveryCode) {
  for (uint32_t code = 0; code < 0x10000; ++code) {
    const auto fp16 = static_cast<uint16_t>(code);
    const float value = fp16_to_float(fp16);
    if ((code & 0x7FFF) > 0x7C00) {
      EXPECT_TRUE(std::isnan(value));
      EXPECT_TRUE(std::isnan(fp16_to_float(float_to_fp16(value))));
      continue;
    }
    const int exponent = code >> 10 & 31;
    const int mantissa = code & 0x3FF;
    const double magnitude = exponent == 31  ? kInfinity
                             : exponent == 0 ? std::ldexp(mantissa, -24)
                                             : std::ldexp(0x400 + mantissa, exponent - 25);
    EXPECT_EQ(std::fabs(value), magnitude);
    EXPECT_EQ(float_to_fp16(value), fp16);
  }
}

TEST(Fp16, RoundsToNearestEven) {
  expect_nearest_even<uint16_t>(0x7BFF, 0x8000, fp16_to_float, float_to_fp16);
  EXPECT_EQ(float_to_fp16(std::nextafter(65520.0f, 0.0f)), 0x7BFF);
  EXPECT_EQ(float_to_fp16(65520.0f), 0x7C00);
}

// The mean over all 8192 random numbers, as a multiple of the input.
double mean_stochastic(float value) {
  double sum = 0;
  for (uint32_t random = 0; random < 8192; ++random) {
    sum += fp16_to_float(float_to_fp16_stochastic(value, random));
  }
  return sum / 8192;
}

TEST(Fp16Stochastic, IsUnbiased) {
  // Normal numbers lose 13 bits, exactly the random ones: the mean is exact.
  for (const float value : {1.0f, 1.0001f, -3.14159265f, 0x1.fffffep-14f, 1234.567f, 65503.9f}) {
    EXPECT_EQ(mean_stochastic(value), value);
  }
  // Subnormal ones lose more. What lies below the 13 random bits biases the mean by less than one
  // part in 8192 of a unit of 2^-24.
  for (const float value : {3.1e-5f, -6.5e-7f, 1e-7f, 5e-8f, 1.1e-9f}) {
    EXPECT_NEAR(mean_stochastic(value), value, 0x1p-24 / 8192);
  }
}

TEST(Fp16Stochastic, KeepsFp16ValuesAndSpecialOnes) {
  for (uint32_t code = 0; code < 0x10000; ++code) {
    const float value = fp16_to_float(static_cast<uint16_t>(code));
    for (const uint32_t random : {0u, 4095u, 8191u}) {
      const uint16_t rounded = float_to_fp16_stochastic(value, random);
      if (std::isnan(value)) {
        EXPECT_TRUE(std::isnan(fp16_to_float(rounded)));
      } else {
        EXPECT_EQ(rounded, code);
      }
    }
  }
  EXPECT_EQ(float_to_fp16_stochastic(1e9f, 0), 0x7C00);
  EXPECT_EQ(float_to_fp16_stochastic(-65535.0f, 8191), 0xFC00);
  EXPECT_EQ(float_to_fp16_stochastic(65535.0f, 0), 0x7BFF);
  EXPECT_EQ(float_to_fp16_stochastic(-1e-40f, 8191), 0x8000);
}

}  // namespace
}  // namespace vernier::formats
