// The unquantized format: one plane of BF16.
#include <algorithm>

#include "base/check.h"
#include "formats/bf16.h"
#include "formats/bf16_elems.h"
#include "formats/fp16.h"
#include "formats/rows.h"

namespace vernier::formats {
namespace {

constexpr PlaneSpec kPlanes[] = {
    {PlaneRole::kCodes, "weight", DType::kBF16,
     [](int64_t n, int64_t k) {
       return Shape{n, k};
     }},
};

PackedTensor encode(const TensorView& weight, const EncodeOptions&) {
  const int64_t n = weight.shape[0];
  const int64_t k = weight.shape[1];
  PackedTensor packed = make_packed(kBf16Format, n, k);
  uint16_t* codes = packed.plane(PlaneRole::kCodes).as<uint16_t>().data();
#pragma omp parallel for schedule(static) if (n * k > 1 << 16)
  for (int64_t row = 0; row < n; ++row) {
    uint16_t* const out = codes + row * k;
    const uint16_t* const elems = bf16_elems(weight, row * k, k, out);
    if (elems != out) std::copy_n(elems, k, out);
  }
  return packed;
}

// Reads F16 and F32 planes as well, exactly: a module that stays unquantized keeps its source's
// tensor.
void decode_rows(const PackedView& packed, int64_t first_row, int64_t n_rows, float* out) {
  const TensorView& plane = packed.plane(PlaneRole::kCodes);
  const int64_t first = first_row * packed.k;
  const int64_t count = n_rows * packed.k;
  switch (plane.dtype) {
    case DType::kF32:
      std::copy_n(plane.as<float>().data() + first, count, out);
      return;
    case DType::kF16: {
      const uint16_t* codes = plane.as<uint16_t>().data() + first;
      for (int64_t i = 0; i < count; ++i) out[i] = fp16_to_float(codes[i]);
      return;
    }
    default: {
      VERNIER_CHECK(plane.dtype == DType::kBF16);
      const uint16_t* codes = plane.as<uint16_t>().data() + first;
      for (int64_t i = 0; i < count; ++i) out[i] = bf16_to_float(codes[i]);
    }
  }
}

}  // namespace

constinit const Format kBf16Format = {
    .name = "bf16",
    .summary = "BF16, unquantized",
    .bits_per_weight = 16,
    .k_multiple = 1,
    .planes = kPlanes,
    .input_divisor = 0,
    .encode = encode,
    .decode_rows = decode_rows,
    .round_input = nullptr,
    .device_codec = &kBf16DeviceCodec,
};

}  // namespace vernier::formats
