// IEEE FP16 (1 sign, 5 exponent with bias 15, 10 mantissa bits): rounded to nearest, and
// stochastically as a Mamba state cache in FP16 is written.
#pragma once

#include "formats/host_device.h"

namespace vernier::formats {

VERNIER_HD constexpr float fp16_to_float(uint16_t code) {
  const uint32_t sign = (code & 0x8000u) << 16;
  const uint32_t magnitude = code & 0x7FFFu;
  if (magnitude >= 0x7C00u) return bits_float(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
  if (magnitude >= 0x400u) return bits_float(sign | ((magnitude << 13) + (112u << 23)));
  // Subnormal: units of 2^-24.
  const float value = static_cast<float>(magnitude) * 0x1p-24f;
  return bits_float(sign | float_bits(value));
}

// Rounds to nearest, ties to even. Beyond 65520: infinity. A NaN stays one.
VERNIER_HD constexpr uint16_t float_to_fp16(float value) {
  const uint32_t bits = float_bits(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u);
  if (magnitude >= float_bits(65520.0f)) return static_cast<uint16_t>(sign | 0x7C00u);
  if (magnitude < float_bits(0x1p-14f)) {
    // The sum's last mantissa bit weighs 2^-24, the subnormal unit: the addition rounds.
    const uint32_t units = float_bits(bits_float(magnitude) + 0.5f) - float_bits(0.5f);
    return static_cast<uint16_t>(sign | units);
  }
  const uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded >> 13) - (112u << 10)));
}

// Rounds away from zero with a probability equal to the discarded fraction, given 13 uniform bits:
// the bits are added to the magnitude below its last kept bit, then the rest is cut off. The
// expected result is the value itself wherever FP16 reaches, subnormals included (there more than
// 13 bits are discarded, and the random bits align with the uppermost of these). Beyond the range:
// infinity, as when rounding to nearest; infinities and NaNs pass through.
VERNIER_HD constexpr uint16_t float_to_fp16_stochastic(float value, uint32_t random13) {
  const uint32_t bits = float_bits(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  const uint32_t exponent = magnitude >> 23;
  if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u);
  if (exponent > 142u) return static_cast<uint16_t>(sign | 0x7C00u);
  if (exponent >= 113u) {
    return static_cast<uint16_t>(sign | (((magnitude + random13) >> 13) - (112u << 10)));
  }
  const uint32_t shift = 13u + (113u - exponent);
  if (shift > 36u) return static_cast<uint16_t>(sign);
  const uint64_t mantissa = (magnitude & 0x7FFFFFu) | 0x800000u;
  const uint64_t sum = mantissa + (static_cast<uint64_t>(random13) << (shift - 13u));
  return static_cast<uint16_t>(sign | static_cast<uint32_t>(sum >> shift));
}

}  // namespace vernier::formats
