// NVFP4 on a device: unpacking, input rounding, distortion (encoding: nvfp4_encode_cuda.cu). A
// thread takes eight elements, half a block, so that neighbouring threads touch neighbouring
// 16-byte words of BF16; of the inputs, a pair of threads shares a block.
#include "formats/nvfp4.h"

#include "formats/codes_cuda.h"
#include "formats/distortion_cuda.h"
#include "formats/nvfp4_encode_cuda.h"
#include "formats/nvfp4_input_cuda.h"
#include "formats/rows.h"

namespace vernier::formats {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// The BF16 values of the four codes in the low half of `codes`. A permutation of bytes looks up
// four codes' upper bytes, another one their lower bytes: it takes the low three bits of a nibble
// as an index into eight bytes. With the fourth bit it repeats the byte's top bit, which gives the
// signs. A negative zero, code 8, stays one.
struct FourValues {
  uint32_t first;   // of codes 0 and 1
  uint32_t second;  // of codes 2 and 3
};
__device__ FourValues values_of_four(uint32_t codes) {
  constexpr uint32_t kSigns = 0x80808080u;
  const uint32_t magnitudes = codes & 0x7777u;
  const uint32_t low = __byte_perm(0xC0800000u, 0xC0804000u, magnitudes);  // 0 .5 1 1.5, 2 3 4 6
  const uint32_t high = __byte_perm(0x3F3F3F00u, 0x40404040u, magnitudes);
  uint32_t negative;  // 0xFF, else 0x80; __byte_perm would ignore the fourth bit
  asm("prmt.b32 %0, %1, %1, %2;" : "=r"(negative) : "r"(kSigns), "r"(codes));
  const uint32_t signed_high = high | (negative << 1 & kSigns);
  return {__byte_perm(low, signed_high, 0x5140), __byte_perm(low, signed_high, 0x7362)};
}

// pair * scale + 0 in BF16: exact, since a code has 2 significant bits and a scale 4, and the sum
// makes a negative zero a positive one.
__device__ uint32_t times(uint32_t pair, __nv_bfloat162 scale) {
  const __nv_bfloat162 zero = __floats2bfloat162_rn(0, 0);
  const __nv_bfloat162 product =
      __hfma2(*reinterpret_cast<const __nv_bfloat162*>(&pair), scale, zero);
  return *reinterpret_cast<const uint32_t*>(&product);
}

// Eight codes times their block scale.
__device__ Bf16x8 values_of_eight(uint32_t codes, uint8_t block_scale) {
  const float value = e4m3_to_float(block_scale);
  const __nv_bfloat162 scale = __floats2bfloat162_rn(value, value);
  const FourValues low = values_of_four(codes), high = values_of_four(codes >> 16);
  return {{times(low.first, scale), times(low.second, scale), times(high.first, scale),
           times(high.second, scale)}};
}

// Eight codes, four bytes; a checkpoint's tensors are only as aligned as their elements.
template <bool kAligned>
__device__ uint32_t load_codes(const uint8_t* from) {
  if constexpr (kAligned) {
    return __ldg(reinterpret_cast<const uint32_t*>(from));
  } else {
    return from[0] | from[1] << 8 | from[2] << 16 | static_cast<uint32_t>(from[3]) << 24;
  }
}

template <bool kAligned>
__device__ void store_values(const Bf16x8& values, float* to) {
  float wide[8];
  widen(values, wide);
  store_eight<kAligned>(wide, to);
}
template <bool kAligned>
__device__ void store_values(const Bf16x8& values, Bf16* to) {
  if constexpr (kAligned) {
    *reinterpret_cast<uint4*>(to) =
        make_uint4(values.pair[0], values.pair[1], values.pair[2], values.pair[3]);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) to[i] = static_cast<Bf16>(values.pair[i / 2] >> i % 2 * 16);
  }
}

template <bool kAligned, class Out>
__global__ void __launch_bounds__(kThreads)
    decode_codes(const uint8_t* codes, const uint8_t* scales, int64_t rows, int64_t cols, Out* out,
                 int64_t out_stride) {
  const int64_t eight = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (eight * 8 >= cols) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const int64_t index = row * (cols / 8) + eight;
    store_values<kAligned>(
        values_of_eight(load_codes<kAligned>(codes + index * 4), __ldg(scales + index / 2)),
        out + row * out_stride + eight * 8);
  }
}

template <class Out>
void launch_decode(const uint8_t* codes, const uint8_t* scales, AnyMatrixView out) {
  const bool aligned = is_aligned(codes, 4) && is_aligned(out.data, out.row_stride, sizeof(Out));
  with_flag(aligned, [&](auto is_aligned) {
    decode_codes<is_aligned()>
        <<<grid_of(out.cols / 8, out.rows, kThreads), kThreads, 0, stream_of(out.device)>>>(
            codes, scales, out.rows, out.cols, out.as<Out>(), out.row_stride);
  });
  check_launch();
}

void decode_rows(const PackedView& packed, int64_t first_row, AnyMatrixView out) {
  VERNIER_CHECK(out.cols == packed.k);
  if (out.rows == 0 || out.cols == 0) return;
  const int64_t first = first_row * packed.k;
  const uint8_t* const codes = packed.plane(PlaneRole::kCodes).as<uint8_t>().data() + first / 2;
  const uint8_t* const scales =
      packed.plane(PlaneRole::kBlockScales).as<uint8_t>().data() + first / kNvfp4Block;
  const AnyMatrixView rows = as_one_row(out);
  if (out.dtype == DType::kF32) {
    launch_decode<float>(codes, scales, rows);
  } else {
    VERNIER_CHECK(out.dtype == DType::kBF16);
    launch_decode<Bf16>(codes, scales, rows);
  }
}

template <bool kAligned, bool kFast, class In, class Out>
__global__ void __launch_bounds__(kThreads)
    encode_inputs(const In* x, int64_t x_stride, int64_t rows, int64_t cols,
                  const InputCoding coding, Out* codes, int64_t codes_stride) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 8;
  const bool is_inside = first < cols;  // the others keep on, for the exchange
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    float values[8] = {};
    if (is_inside) load_eight<kAligned>(x + row * x_stride + first, values);
    map_eight<In>(coding.map, values);
    round_half_block<kFast>(values, coding.scale);
    if (is_inside) store_eight<kAligned>(values, codes + row * codes_stride + first);
  }
}

template <class In, class Out>
void launch_encode_input(ConstAnyMatrixView x, const InputCoding& coding, AnyMatrixView codes) {
  constexpr bool kIsBf16 = std::is_same_v<In, Bf16>;
  const bool aligned = is_aligned(x.data, x.row_stride, sizeof(In)) &&
                       is_aligned(codes.data, codes.row_stride, sizeof(Out));
  const bool fast = kIsBf16 && nvfp4_divides_exactly(coding.scale);
  with_flag(aligned, [&](auto is_aligned) {
    with_flag(fast, [&](auto is_fast) {
      encode_inputs<is_aligned(), is_fast() && kIsBf16>
          <<<grid_of(x.cols / 8, x.rows, kThreads), kThreads, 0, stream_of(x.device)>>>(
              x.as<In>(), x.row_stride, x.rows, x.cols, coding, codes.as<Out>(), codes.row_stride);
    });
  });
  check_launch();
}

template <class In>
void encode_input_of(ConstAnyMatrixView x, const InputCoding& coding, AnyMatrixView codes) {
  if (codes.dtype == DType::kF32) {
    launch_encode_input<In, float>(x, coding, codes);
  } else {
    VERNIER_CHECK(codes.dtype == DType::kBF16);
    launch_encode_input<In, Bf16>(x, coding, codes);
  }
}

void encode_input(ConstAnyMatrixView x, const InputCoding& coding, AnyMatrixView codes) {
  VERNIER_CHECK(x.cols % kNvfp4Block == 0);
  with_inputs(x, codes, [&](auto element, ConstAnyMatrixView inputs, AnyMatrixView to) {
    encode_input_of<decltype(element)>(inputs, coding, to);
  });
}

struct Nvfp4Decoder {
  const uint8_t* codes;
  const uint8_t* scales;
  float global_scale;

  __device__ float unit(int64_t i) const {
    return nvfp4_unit(scales[i / kNvfp4Block], global_scale);
  }
  __device__ float decode(int64_t i) const {
    return e2m1_to_float(static_cast<uint8_t>(codes[i / 2] >> i % 2 * 4 & 15)) * unit(i);
  }
  __device__ void decode_eight(int64_t first, float (&values)[8]) const {
    const uint32_t eight = load_codes<false>(codes + first / 2);
    const FourValues low = values_of_four(eight), high = values_of_four(eight >> 16);
    widen(Bf16x8{{low.first, low.second, high.first, high.second}}, values);
    const float common = unit(first);
#pragma unroll
    for (float& value : values) value *= common;
  }
  __device__ float limit(int64_t i) const {
    return kE2m1Max * global_scale * e4m3_to_float(scales[i / kNvfp4Block]);
  }
};

Distortion distortion(const TensorView& weight, const PackedView& packed) {
  return measure_distortion(weight,
                            Nvfp4Decoder{packed.plane(PlaneRole::kCodes).as<uint8_t>().data(),
                                         packed.plane(PlaneRole::kBlockScales).as<uint8_t>().data(),
                                         packed.plane(PlaneRole::kGlobalScale).as<float>()[0]});
}

}  // namespace
}  // namespace cuda

const DeviceCodec kNvfp4DeviceCodec = {
    .encode = cuda::nvfp4_encode,
    .decode_rows = cuda::decode_rows,
    .encode_input = cuda::encode_input,
    .input_dtype = std::nullopt,
    .distortion = cuda::distortion,
};

}  // namespace vernier::formats
