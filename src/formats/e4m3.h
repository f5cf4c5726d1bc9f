// FP8 E4M3 ("e4m3fn"): 1 sign, 4 exponent bits with bias 7, 3 mantissa bits. No infinities;
// S.1111.111 is NaN, every other code is finite. Largest 448 (0x7E), smallest normal 2^-6 (0x08),
// smallest positive 2^-9 (0x01). Positive codes are in the order of their values.
#pragma once

#include "formats/host_device.h"

namespace vernier::formats {

inline constexpr float kE4m3Max = 448.0f;
inline constexpr float kE4m3Min = 0x1p-9f;  // the smallest positive value
inline constexpr uint8_t kE4m3MaxCode = 0x7E;
inline constexpr uint8_t kE4m3One = 0x38;

VERNIER_HD constexpr float e4m3_to_float(uint8_t code) {
  const uint32_t sign = (code & 0x80u) << 24;
  const uint32_t magnitude = code & 0x7Fu;
  if (magnitude == 0x7Fu) return bits_float(sign | 0x7FC00000u);
  if (magnitude >= 0x08u) return bits_float(sign | ((magnitude << 20) + (120u << 23)));
  // Subnormal: units of 2^-9.
  const float value = static_cast<float>(magnitude) * kE4m3Min;
  return bits_float(sign | float_bits(value));
}

// PyTorch's cast: rounds to nearest, ties to even, and does not saturate. Up to 464, the tie above
// the largest value, the result is 448; beyond it, and for infinities, NaN. 2^-10 and less: zero
// with the sign kept.
VERNIER_HD constexpr uint8_t float_to_e4m3(float value) {
  const uint32_t bits = float_bits(value);
  const uint32_t sign = (bits >> 24) & 0x80u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > float_bits(464.0f)) return static_cast<uint8_t>(sign | 0x7Fu);
  if (magnitude < float_bits(0x1p-6f)) {
    // The last mantissa bit of a sum near 2^14 weighs 2^-9, the subnormal unit: the addition
    // rounds.
    const uint32_t units = float_bits(bits_float(magnitude) + 0x1p14f) - float_bits(0x1p14f);
    return static_cast<uint8_t>(sign | units);
  }
  const uint32_t rounded = magnitude + 0x7FFFFu + ((magnitude >> 20) & 1u);
  return static_cast<uint8_t>(sign | ((rounded >> 20) - (120u << 3)));
}

// The same, but magnitudes beyond 448 (infinities too) give 448. A NaN stays one, with its sign:
// the comparison is on bits because a device's floating minimum and maximum drop it.
VERNIER_HD constexpr uint8_t float_to_e4m3_saturating(float value) {
  const uint32_t magnitude = float_bits(value) & 0x7FFFFFFFu;
  const bool saturates = magnitude > float_bits(kE4m3Max) && magnitude <= 0x7F800000u;
  if (!saturates) return float_to_e4m3(value);
  return static_cast<uint8_t>(((float_bits(value) >> 24) & 0x80u) | kE4m3MaxCode);
}

}  // namespace vernier::formats
