// What the device codecs share: loads and stores of eight elements, exact division by a common
// divisor, rounding to a small float format's grid, launches. Bits are the host's: the definitions
// (nvfp4.h, fp8.h) in FP32 without contraction, and the processor's conversions, which round as
// e4m3.h and bf16.h do.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "formats/bf16.h"
#include "formats/e4m3.h"
#include "formats/fp16.h"
#include "formats/input_map.h"
#include "formats/quotient.h"
#include "tensor/any_matrix.h"
#include "tensor/device_cuda.h"

namespace vernier::formats::cuda {

// Element types in kernels; their sizes tell them apart.
using Bf16 = uint16_t;
using E4m3 = uint8_t;
struct Fp16 {
  uint16_t code;
};

// Eight BF16 codes, two in a word, the first in the low half.
struct Bf16x8 {
  uint32_t pair[4];
};

__device__ inline float low_of(uint32_t pair) { return bits_float(pair << 16); }
__device__ inline float high_of(uint32_t pair) { return bits_float(pair & 0xFFFF0000u); }
// The two nearest BF16 codes.
__device__ inline uint32_t bf16_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Eight elements; kAligned: at a multiple of 16 bytes, or of 8 elements' size where that is less.
// The choice is a template's, since a load in a branch would wait for its result.
template <bool kAligned>
__device__ inline Bf16x8 load_eight(const Bf16* from) {
  if constexpr (kAligned) {
    const uint4 words = __ldg(reinterpret_cast<const uint4*>(from));
    return {{words.x, words.y, words.z, words.w}};
  } else {
    Bf16x8 eight;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      eight.pair[i] = from[2 * i] | static_cast<uint32_t>(from[2 * i + 1]) << 16;
    }
    return eight;
  }
}

__device__ inline void widen(const Bf16x8& eight, float (&values)[8]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = low_of(eight.pair[i]);
    values[2 * i + 1] = high_of(eight.pair[i]);
  }
}

__device__ inline float load_one(const Bf16* from) { return bf16_to_float(*from); }
__device__ inline float load_one(const Fp16* from) { return fp16_to_float(from->code); }
__device__ inline float load_one(const float* from) { return *from; }

template <bool kAligned>
__device__ inline void load_eight(const Bf16* from, float (&values)[8]) {
  widen(load_eight<kAligned>(from), values);
}
template <bool kAligned>
__device__ inline void load_eight(const Fp16* from, float (&values)[8]) {
  const Bf16x8 eight = load_eight<kAligned>(&from->code);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    values[i] = fp16_to_float(static_cast<uint16_t>(eight.pair[i / 2] >> i % 2 * 16));
  }
}
template <bool kAligned>
__device__ inline void load_eight(const float* from, float (&values)[8]) {
  if constexpr (kAligned) {
    const auto* const words = reinterpret_cast<const float4*>(from);
    const float4 low = __ldg(words), high = __ldg(words + 1);
    values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
    values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = from[i];
  }
}

// Two E4M3 codes, saturating: float_to_e4m3_saturating but for a NaN's sign.
__device__ inline uint32_t e4m3_pair(float low, float high) {
  return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
}
// The values of two E4M3 codes, exact in FP16.
__device__ inline float2 e4m3_values(uint32_t pair) {
  const __half2_raw halves =
      __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(pair), __NV_E4M3);
  return __half22float2(__half2(halves));
}

__device__ inline void store_one(float value, float* to) { *to = value; }
__device__ inline void store_one(float value, Bf16* to) { *to = float_to_bf16(value); }
__device__ inline void store_one(float value, E4m3* to) { *to = float_to_e4m3_saturating(value); }

template <bool kAligned>
__device__ inline void store_eight(const float (&values)[8], float* to) {
  if constexpr (kAligned) {
    auto* const words = reinterpret_cast<float4*>(to);
    words[0] = make_float4(values[0], values[1], values[2], values[3]);
    words[1] = make_float4(values[4], values[5], values[6], values[7]);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) to[i] = values[i];
  }
}
template <bool kAligned>
__device__ inline void store_eight(const float (&values)[8], Bf16* to) {
  if constexpr (kAligned) {
    *reinterpret_cast<uint4*>(to) =
        make_uint4(bf16_pair(values[0], values[1]), bf16_pair(values[2], values[3]),
                   bf16_pair(values[4], values[5]), bf16_pair(values[6], values[7]));
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) store_one(values[i], to + i);
  }
}
template <bool kAligned>
__device__ inline void store_eight(const float (&values)[8], E4m3* to) {
  if constexpr (kAligned) {
    *reinterpret_cast<uint2*>(to) =
        make_uint2(e4m3_pair(values[0], values[1]) | e4m3_pair(values[2], values[3]) << 16,
                   e4m3_pair(values[4], values[5]) | e4m3_pair(values[6], values[7]) << 16);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) store_one(values[i], to + i);
  }
}

// Values as a matrix of T elements, float or Bf16, would give them back.
template <class T>
__device__ inline void round_eight(float (&values)[8]) {
  if constexpr (std::is_same_v<T, Bf16>) {
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      const uint32_t pair = bf16_pair(values[i], values[i + 1]);
      values[i] = low_of(pair), values[i + 1] = high_of(pair);
    }
  }
}
template <class T>
__device__ inline float round_one(float value) {
  return std::is_same_v<T, Bf16> ? low_of(bf16_pair(value, 0)) : value;
}

// Inputs of type T after the map, as a pass of its own would have stored them.
template <class T>
__device__ inline void map_eight(InputMap map, float (&values)[8]) {
  if (map == InputMap::kNone) return;
#pragma unroll
  for (float& value : values) value = squared_relu(value);
  round_eight<T>(values);
}
template <class T>
__device__ inline float map_one(InputMap map, float value) {
  return map == InputMap::kNone ? value : round_one<T>(squared_relu(value));
}

// min(a, b), but a NaN stays one.
__device__ inline float min_or_nan(float a, float b) {
  float least;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(least) : "f"(a), "f"(b));
  return least;
}

// Divides magnitudes by one divisor: by a division, or, kFast, as bf16_quotient does.
template <bool kFast>
class Divider {
 public:
  __device__ explicit Divider(float divisor) : Divider(divisor, kFast ? 1.0f / divisor : 0) {}
  __device__ Divider(float divisor, float reciprocal)
      : divisor_(divisor), reciprocal_(reciprocal) {}

  __device__ float operator()(float a) const {
    return kFast ? bf16_quotient(a, divisor_, reciprocal_) : a / divisor_;
  }

 private:
  float divisor_;
  float reciprocal_;
};

// The nearest value of a grid with kMantissaBits mantissa bits whose spacing stays the same below
// 2^kMinExponent, ties to even; 0 <= x <= the grid's largest. As in codes-inl.h: next to a number
// 2^(23 - kMantissaBits) times its power of two the addition rounds.
template <int kMantissaBits, int kMinExponent>
__device__ inline float round_to_grid(float x) {
  constexpr float kLeast = kMinExponent == 0 ? 1.0f : 0x1p-6f;
  static_assert(kMinExponent == 0 || kMinExponent == -6);
  const float power = fmaxf(bits_float(float_bits(x) & 0x7F800000u), kLeast);
  const float anchor = power * static_cast<float>(1 << (23 - kMantissaBits));
  return (x + anchor) - anchor;
}
__device__ inline float round_to_e2m1(float x) { return round_to_grid<1, 0>(x); }
__device__ inline float round_to_e4m3(float x) { return round_to_grid<3, -6>(x); }

inline bool is_aligned(const void* data, uintptr_t bytes = 16) {
  return reinterpret_cast<uintptr_t>(data) % bytes == 0;
}
// Whether every eighth element of every row starts at a multiple of 16 bytes, or of 8 elements'
// size where that is less.
inline bool is_aligned(const void* data, int64_t row_stride, int64_t elem_bytes) {
  const int64_t unit = std::min<int64_t>(16, 8 * elem_bytes);
  return is_aligned(data, static_cast<uintptr_t>(unit)) && row_stride * elem_bytes % unit == 0;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A contiguous matrix as one long row: elementwise work then has no short rows.
template <class View>
View as_one_row(View matrix) {
  if (matrix.row_stride != matrix.cols) return matrix;
  const int64_t cols = matrix.rows * matrix.cols;
  return View(matrix.data, 1, cols, cols, matrix.dtype, matrix.device);
}

// Calls body(std::true_type()) or body(std::false_type()): a flag becomes a template's argument.
template <class Body>
void with_flag(bool flag, const Body& body) {
  if (flag) {
    body(std::true_type());
  } else {
    body(std::false_type());
  }
}

// What every encode_input begins with: nothing to do for empty inputs, contiguous ones as one row,
// then encode(In(), x, codes) with x's elements, float or Bf16.
template <class Encode>
void with_inputs(ConstAnyMatrixView x, AnyMatrixView codes, const Encode& encode) {
  VERNIER_CHECK(codes.rows == x.rows && codes.cols == x.cols);
  if (x.rows == 0 || x.cols == 0) return;
  const bool contiguous = x.row_stride == x.cols && codes.row_stride == codes.cols;
  if (contiguous) x = as_one_row(x), codes = as_one_row(codes);
  if (x.dtype == DType::kF32) return encode(float(), x, codes);
  VERNIER_CHECK(x.dtype == DType::kBF16);
  encode(Bf16(), x, codes);
}

// A grid of one thread an item along x and one row along y; rows past the grid's limit are left to
// a loop in the kernel.
inline dim3 grid_of(int64_t items, int64_t rows, int threads) {
  return dim3(static_cast<unsigned>(ceil_div(items, threads)),
              static_cast<unsigned>(std::min<int64_t>(rows, 65535)));
}

}  // namespace vernier::formats::cuda
