// Inputs as FP8 codes on a device: what the codec shares with kernels that code what they compute.
// The same bits whether or not a compiler contracts products and sums: there is none to contract.
#pragma once

#include "formats/codes_cuda.h"

namespace vernier::formats::cuda {

// x / scale. Beyond 448 inputs saturate; they are cut at 512 before the division, so that it cannot
// overflow. Results keep the inputs' signs and NaNs. kFast: the inputs are BF16 and the scale a
// divisor of bf16_quotient.
template <bool kFast>
class Fp8Quotient {
 public:
  __device__ explicit Fp8Quotient(float scale) : divide_(scale), limit_(512 * scale) {}

  __device__ float operator()(float x) const {
    return copysignf(divide_(min_or_nan(fabsf(x), limit_)), x);
  }

 private:
  Divider<kFast> divide_;
  float limit_;
};

// Rounds quotients to codes and stores these as they are, or their values.
template <bool kAligned>
__device__ inline void store_fp8_codes(const float (&quotients)[8], E4m3* codes) {
  store_eight<kAligned>(quotients, codes);
}
template <bool kAligned, class Out>
__device__ inline void store_fp8_codes(const float (&quotients)[8], Out* codes) {
  float values[8];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 two = e4m3_values(e4m3_pair(quotients[2 * i], quotients[2 * i + 1]));
    values[2 * i] = two.x, values[2 * i + 1] = two.y;
  }
  store_eight<kAligned>(values, codes);
}
__device__ inline void store_fp8_code(float quotient, E4m3* code) { store_one(quotient, code); }
template <class Out>
__device__ inline void store_fp8_code(float quotient, Out* code) {
  store_one(e4m3_to_float(float_to_e4m3_saturating(quotient)), code);
}

}  // namespace vernier::formats::cuda
