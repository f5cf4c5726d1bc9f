// Marks the scalar definitions that CUDA kernels use as well, so that a format is defined once.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define VERNIER_HD __host__ __device__
#else
#define VERNIER_HD
#endif

namespace vernier::formats {

VERNIER_HD constexpr uint32_t float_bits(float value) {
  return __builtin_bit_cast(uint32_t, value);
}
VERNIER_HD constexpr float bits_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }

}  // namespace vernier::formats
