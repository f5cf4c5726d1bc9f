// FP4 E2M1: 1 sign, 2 exponent bits with bias 1, 1 mantissa bit; magnitudes 0 0.5 1 1.5 2 3 4 6.
// Neither infinities nor NaN.
#pragma once

#include "formats/host_device.h"

namespace vernier::formats {

inline constexpr float kE2m1Max = 6.0f;

// Code 8, a negative value that was rounded to zero, decodes to +0.
VERNIER_HD constexpr float e2m1_to_float(uint8_t code) {
  const uint32_t k = code & 7u;
  // From 2 on a code is an FP32 number's exponent and first mantissa bit, the exponent off by 126.
  const float magnitude =
      k < 2u ? 0.5f * static_cast<float>(k) : bits_float((k << 22) + (126u << 23));
  return (code & 8u) && k ? -magnitude : magnitude;
}

// Rounds to nearest, ties to the even code: 0.25 -> 0, 0.75 -> 1, 1.25 -> 1, 1.75 -> 2, 2.5 -> 2,
// 3.5 -> 4, 5 -> 4. Saturates at 6. The sign bit is set for every value below zero, so a small
// negative value gives code 8 while -0.0 gives 0. A NaN gives 0.
VERNIER_HD constexpr uint8_t float_to_e2m1(float value) {
  const float magnitude = value < 0 ? -value : value;
  const int k = (magnitude > 0.25f) + (magnitude >= 0.75f) + (magnitude > 1.25f) +
                (magnitude >= 1.75f) + (magnitude > 2.5f) + (magnitude >= 3.5f) +
                (magnitude > 5.0f);
  return static_cast<uint8_t>((value < 0 ? 8 : 0) | k);
}

}  // namespace vernier::formats
