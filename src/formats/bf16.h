// BF16: the upper half of an FP32 number (1 sign, 8 exponent, 7 mantissa bits).
#pragma once

#include "formats/host_device.h"

namespace vernier::formats {

VERNIER_HD constexpr float bf16_to_float(uint16_t code) {
  return bits_float(static_cast<uint32_t>(code) << 16);
}

// Rounds to nearest, ties to even. Beyond the range: infinity. A NaN stays one, with its sign.
VERNIER_HD constexpr uint16_t float_to_bf16(float value) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

// The nearest BF16 value.
VERNIER_HD constexpr float round_to_bf16(float value) {
  return bf16_to_float(float_to_bf16(value));
}

}  // namespace vernier::formats
