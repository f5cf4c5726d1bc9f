// The unquantized format on a device: copies and conversions. A thread converts eight elements of a
// row: 16 or 32 bytes read and written.
#include "formats/codes_cuda.h"
#include "formats/distortion_cuda.h"
#include "formats/rows.h"

namespace vernier::formats {
namespace cuda {
namespace {

constexpr int kThreads = 256;

template <bool kAligned, class From, class To>
__global__ void __launch_bounds__(kThreads)
    convert(const From* from, int64_t rows, int64_t cols, To* to, int64_t to_stride) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 8;
  if (first >= cols) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const From* const source = from + row * cols;
    To* const target = to + row * to_stride;
    if (first + 8 <= cols) {
      float values[8];
      load_eight<kAligned>(source + first, values);
      store_eight<kAligned>(values, target + first);
    } else {
      for (int64_t i = first; i < cols; ++i) store_one(load_one(source + i), target + i);
    }
  }
}

template <class From, class To>
void launch_convert(const From* from, AnyMatrixView out) {
  const bool aligned =
      is_aligned(from, out.cols, sizeof(From)) && is_aligned(out.data, out.row_stride, sizeof(To));
  with_flag(aligned, [&](auto is_aligned) {
    convert<is_aligned()>
        <<<grid_of(ceil_div(out.cols, 8), out.rows, kThreads), kThreads, 0,
           stream_of(out.device)>>>(from, out.rows, out.cols, out.as<To>(), out.row_stride);
  });
  check_launch();
}

template <class From>
void convert_rows(const From* from, AnyMatrixView out) {
  if (out.dtype == DType::kF32) {
    launch_convert<From, float>(from, out);
  } else {
    VERNIER_CHECK(out.dtype == DType::kBF16);
    launch_convert<From, Bf16>(from, out);
  }
}

PackedTensor encode(const TensorView& weight, const EncodeOptions&) {
  VERNIER_CHECK(weight.dtype == DType::kBF16);
  PackedTensor packed = make_packed(kBf16Format, weight.shape[0], weight.shape[1], weight.device);
  copy_bytes(packed.plane(PlaneRole::kCodes).data(), weight.device, weight.data, weight.device,
             weight.size_bytes());
  return packed;
}

void decode_rows(const PackedView& packed, int64_t first_row, AnyMatrixView out) {
  if (out.rows == 0 || out.cols == 0) return;
  const TensorView& plane = packed.plane(PlaneRole::kCodes);
  const std::byte* const from =
      plane.data + first_row * packed.k * dtype_info(plane.dtype).bits / 8;
  switch (plane.dtype) {
    case DType::kF32:
      return convert_rows(reinterpret_cast<const float*>(from), out);
    case DType::kF16:
      return convert_rows(reinterpret_cast<const Fp16*>(from), out);
    default:
      VERNIER_CHECK(plane.dtype == DType::kBF16);
      if (out.dtype == DType::kBF16 && out.row_stride == out.cols) {
        return copy_bytes(out.data, out.device, from, out.device, 2 * out.rows * out.cols);
      }
      return convert_rows(reinterpret_cast<const Bf16*>(from), out);
  }
}

struct Bf16Decoder {
  const Bf16* codes;

  __device__ float decode(int64_t i) const { return bf16_to_float(codes[i]); }
  __device__ void decode_eight(int64_t first, float (&values)[8]) const {
    load_eight<false>(codes + first, values);
  }
  __device__ float limit(int64_t) const { return bits_float(0x7F800000u); }
};

Distortion distortion(const TensorView& weight, const PackedView& packed) {
  const TensorView& plane = packed.plane(PlaneRole::kCodes);
  VERNIER_CHECK(plane.dtype == DType::kBF16);
  return measure_distortion(weight, Bf16Decoder{plane.as<Bf16>().data()});
}

}  // namespace
}  // namespace cuda

const DeviceCodec kBf16DeviceCodec = {
    .encode = cuda::encode,
    .decode_rows = cuda::decode_rows,
    .encode_input = nullptr,
    .input_dtype = std::nullopt,
    .distortion = cuda::distortion,
};

}  // namespace vernier::formats
