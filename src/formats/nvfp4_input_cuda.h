// Inputs as NVFP4 codes times block scales on a device: what the codec shares with kernels that
// code what they compute. The same bits whether or not a compiler contracts products and sums: the
// products that meet a sum are exact.
#pragma once

#include "formats/codes_cuda.h"
#include "formats/nvfp4.h"

namespace vernier::formats::cuda {

// Whether every block's unit is a divisor of bf16_quotient.
inline bool nvfp4_divides_exactly(float input_scale) {
  return divides_exactly(kE4m3Min * input_scale, kE4m3Max * input_scale);
}

// Magnitudes as integers: a NaN comes out on top.
__device__ inline uint32_t amax_bits(const float (&values)[8]) {
  uint32_t largest = 0;
#pragma unroll
  for (const float value : values) largest = max(largest, float_bits(value) & 0x7FFFFFFFu);
  return largest;
}

// Rounds half a block of inputs to codes times block scales, given the whole block's amax. kFast:
// the inputs are BF16 and nvfp4_divides_exactly. A NaN makes the scale a NaN, and that every
// product; where the scale is zero, so is every product.
template <bool kFast>
__device__ inline void round_half_block(float (&values)[8], uint32_t block_amax_bits,
                                        float input_scale) {
  const uint8_t code = nvfp4_input_block_scale(bits_float(block_amax_bits), input_scale);
  const float unit = nvfp4_unit(code, input_scale);
  const float scale = unit == 0 ? 0 : e4m3_to_float(code);
  const Divider<kFast> divide(unit);
#pragma unroll
  for (float& value : values) {
    // Where a quotient overflows, or is 0 / 0, the minimum takes 6.
    const float rounded = round_to_e2m1(fminf(divide(fabsf(value)), kE2m1Max));
    value = copysignf(rounded * scale, value);
  }
}

// The other half is the neighbouring thread's. REQUIRES: all threads of a warp.
template <bool kFast>
__device__ inline void round_half_block(float (&values)[8], float input_scale) {
  const uint32_t own = amax_bits(values);
  round_half_block<kFast>(values, max(own, __shfl_xor_sync(0xFFFFFFFFu, own, 1)), input_scale);
}

}  // namespace vernier::formats::cuda
