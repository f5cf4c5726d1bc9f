// FP8 on a device. All three kernels give a thread eight elements at a time: 16 bytes of BF16 and 8
// of codes, neighbouring threads neighbouring bytes. Per weight the encoder needs three FP32
// operations for its exact quotient, two conversions for every two weights, and the sign.
#include "formats/fp8.h"

#include "formats/codes_cuda.h"
#include "formats/distortion_cuda.h"
#include "formats/fp8_input_cuda.h"
#include "formats/fp8_search_cuda.h"
#include "formats/rows.h"

namespace vernier::formats {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 2;  // eights of a thread, their loads in flight together

// The codes of four magnitudes' quotients, each rounded to BF16 first (fp8_weight_code). Beyond
// 448, or a NaN where bf16_quotient overflows: 448.
__device__ uint32_t codes_of_four(const float* quotients) {
  uint32_t codes[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t pair =
        bf16_pair(fminf(quotients[2 * i], kE4m3Max), fminf(quotients[2 * i + 1], kE4m3Max));
    codes[i] = e4m3_pair(low_of(pair), high_of(pair));
  }
  return __byte_perm(codes[0], codes[1], 0x5410);
}

// Signs are the weights' own, that of a zero too.
__device__ uint32_t with_signs_of(uint32_t codes, uint32_t pair0, uint32_t pair1) {
  constexpr uint32_t kSigns = 0x80808080u;
  return (codes & ~kSigns) | (__byte_perm(pair0, pair1, 0x7531) & kSigns);
}

template <bool kFast>
__device__ uint2 codes_of_eight(const Bf16x8& eight, const Divider<kFast>& divide) {
  float quotients[8];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t magnitudes = eight.pair[i] & 0x7FFF7FFFu;
    quotients[2 * i] = divide(low_of(magnitudes));
    quotients[2 * i + 1] = divide(high_of(magnitudes));
  }
  return make_uint2(with_signs_of(codes_of_four(quotients), eight.pair[0], eight.pair[1]),
                    with_signs_of(codes_of_four(quotients + 4), eight.pair[2], eight.pair[3]));
}

template <bool kAligned, bool kFast>
__global__ void __launch_bounds__(kThreads)
    encode_weights(const Bf16* w, int64_t count, float divisor, E4m3* codes) {
  const Divider<kFast> divide(divisor);
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads * kUnroll + threadIdx.x) * 8;
  constexpr int64_t kApart = kThreads * 8;
  if (first + (kUnroll - 1) * kApart + 8 <= count) {
    Bf16x8 eights[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) eights[i] = load_eight<kAligned>(w + first + i * kApart);
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      *reinterpret_cast<uint2*>(codes + first + i * kApart) = codes_of_eight(eights[i], divide);
    }
    return;
  }
  for (int64_t start = first; start < count; start += kApart) {
    for (int64_t i = start; i < count && i < start + 8; ++i) {
      codes[i] = fp8_weight_code(bf16_to_float(w[i]), divisor);
    }
  }
}

PackedTensor encode(const TensorView& weight, const EncodeOptions& options) {
  VERNIER_CHECK(weight.dtype == DType::kBF16);
  const float scale = fp8_scale(weight, options, fp8_candidate_losses);
  const float divisor = fp8_weight_divisor(scale, options.arithmetic);
  PackedTensor packed =
      make_packed(kFp8E4m3Format, weight.shape[0], weight.shape[1], weight.device);
  packed.plane(PlaneRole::kGlobalScale).as<float>()[0] = scale;
  const int64_t count = weight.size();
  if (count == 0) return packed;
  const auto n_blocks = static_cast<unsigned>(ceil_div(count, kThreads * kUnroll * 8));
  const Bf16* const w = weight.as<Bf16>().data();
  E4m3* const codes = packed.plane(PlaneRole::kCodes).as<E4m3>().data();
  with_flag(is_aligned(w), [&](auto aligned) {
    with_flag(divides_exactly(divisor, divisor), [&](auto fast) {
      encode_weights<aligned(), fast()>
          <<<n_blocks, kThreads, 0, stream_of(weight.device)>>>(w, count, divisor, codes);
    });
  });
  check_launch();
  return packed;
}

// Codes that lie at any address: a checkpoint's tensors are only as aligned as their elements.
template <bool kAligned>
__device__ void values_of_eight(const E4m3* codes, float (&values)[8]) {
  uint32_t pairs[4];
  if constexpr (kAligned) {
    const uint2 words = __ldg(reinterpret_cast<const uint2*>(codes));
    pairs[0] = words.x, pairs[1] = words.x >> 16, pairs[2] = words.y, pairs[3] = words.y >> 16;
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      pairs[i] = codes[2 * i] | static_cast<uint32_t>(codes[2 * i + 1]) << 8;
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 two = e4m3_values(pairs[i]);
    values[2 * i] = two.x, values[2 * i + 1] = two.y;
  }
}

template <bool kAligned, class Out>
__global__ void __launch_bounds__(kThreads)
    decode_codes(const E4m3* codes, int64_t rows, int64_t cols, Out* out, int64_t out_stride) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 8;
  if (first >= cols) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const E4m3* const source = codes + row * cols;
    Out* const target = out + row * out_stride;
    if (first + 8 <= cols) {
      float values[8];
      values_of_eight<kAligned>(source + first, values);
      store_eight<kAligned>(values, target + first);
    } else {
      for (int64_t i = first; i < cols; ++i) store_one(e4m3_to_float(source[i]), target + i);
    }
  }
}

template <class Out>
void launch_decode(const E4m3* codes, AnyMatrixView out) {
  const bool aligned = is_aligned(codes, out.cols, sizeof(E4m3)) &&
                       is_aligned(out.data, out.row_stride, sizeof(Out));
  with_flag(aligned, [&](auto is_aligned) {
    decode_codes<is_aligned()>
        <<<grid_of(ceil_div(out.cols, 8), out.rows, kThreads), kThreads, 0,
           stream_of(out.device)>>>(codes, out.rows, out.cols, out.as<Out>(), out.row_stride);
  });
  check_launch();
}

void decode_rows(const PackedView& packed, int64_t first_row, AnyMatrixView out) {
  VERNIER_CHECK(out.cols == packed.k);
  if (out.rows == 0 || out.cols == 0) return;
  const E4m3* const codes =
      packed.plane(PlaneRole::kCodes).as<E4m3>().data() + first_row * packed.k;
  const AnyMatrixView rows = as_one_row(out);
  if (out.dtype == DType::kF32) {
    launch_decode<float>(codes, rows);
  } else {
    VERNIER_CHECK(out.dtype == DType::kBF16);
    launch_decode<Bf16>(codes, rows);
  }
}

template <bool kAligned, bool kFast, class In, class Out>
__global__ void __launch_bounds__(kThreads)
    encode_inputs(const In* x, int64_t x_stride, int64_t rows, int64_t cols,
                  const InputCoding coding, Out* codes, int64_t codes_stride) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 8;
  if (first >= cols) return;
  const Fp8Quotient<kFast> quotient_of(coding.scale);
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const In* const source = x + row * x_stride;
    Out* const target = codes + row * codes_stride;
    if (first + 8 <= cols) {
      float values[8];
      load_eight<kAligned>(source + first, values);
      map_eight<In>(coding.map, values);
#pragma unroll
      for (float& value : values) value = quotient_of(value);
      store_fp8_codes<kAligned>(values, target + first);
    } else {
      for (int64_t i = first; i < cols; ++i) {
        const float value = map_one<In>(coding.map, load_one(source + i));
        store_fp8_code(quotient_of(value), target + i);
      }
    }
  }
}

template <class In, class Out>
void launch_encode_input(ConstAnyMatrixView x, const InputCoding& coding, AnyMatrixView codes) {
  const bool aligned = is_aligned(x.data, x.row_stride, sizeof(In)) &&
                       is_aligned(codes.data, codes.row_stride, sizeof(Out));
  const bool fast = sizeof(In) == sizeof(Bf16) && divides_exactly(coding.scale, coding.scale);
  with_flag(aligned, [&](auto is_aligned) {
    with_flag(fast, [&](auto is_fast) {
      encode_inputs<is_aligned(), is_fast() && sizeof(In) == sizeof(Bf16)>
          <<<grid_of(ceil_div(x.cols, 8), x.rows, kThreads), kThreads, 0, stream_of(x.device)>>>(
              static_cast<const In*>(x.data), x.row_stride, x.rows, x.cols, coding,
              static_cast<Out*>(codes.data), codes.row_stride);
    });
  });
  check_launch();
}

template <class In>
void encode_input_of(ConstAnyMatrixView x, const InputCoding& coding, AnyMatrixView codes) {
  switch (codes.dtype) {
    case DType::kF8E4M3:
      return launch_encode_input<In, E4m3>(x, coding, codes);
    case DType::kF32:
      return launch_encode_input<In, float>(x, coding, codes);
    default:
      VERNIER_CHECK(codes.dtype == DType::kBF16);
      return launch_encode_input<In, Bf16>(x, coding, codes);
  }
}

void encode_input(ConstAnyMatrixView x, const InputCoding& coding, AnyMatrixView codes) {
  with_inputs(x, codes, [&](auto element, ConstAnyMatrixView inputs, AnyMatrixView to) {
    encode_input_of<decltype(element)>(inputs, coding, to);
  });
}

struct Fp8Decoder {
  const E4m3* codes;
  float scale;

  __device__ float decode(int64_t i) const { return e4m3_to_float(codes[i]) * scale; }
  __device__ void decode_eight(int64_t first, float (&values)[8]) const {
    values_of_eight<false>(codes + first, values);
#pragma unroll
    for (float& value : values) value *= scale;
  }
  __device__ float limit(int64_t) const { return kE4m3Max * scale; }
};

Distortion distortion(const TensorView& weight, const PackedView& packed) {
  return measure_distortion(weight,
                            Fp8Decoder{packed.plane(PlaneRole::kCodes).as<E4m3>().data(),
                                       packed.plane(PlaneRole::kGlobalScale).as<float>()[0]});
}

}  // namespace
}  // namespace cuda

const DeviceCodec kFp8DeviceCodec = {
    .encode = cuda::encode,
    .decode_rows = cuda::decode_rows,
    .encode_input = cuda::encode_input,
    .input_dtype = DType::kF8E4M3,
    .distortion = cuda::distortion,
};

}  // namespace vernier::formats
