#include "formats/bf16_elems.h"

#include "base/check.h"
#include "formats/bf16.h"
#include "formats/fp16.h"

namespace vernier::formats {

const uint16_t* bf16_elems(const TensorView& tensor, int64_t first, int64_t count,
                           uint16_t* buffer) {
  if (tensor.dtype == DType::kBF16) return tensor.as<uint16_t>().data() + first;
  if (tensor.dtype == DType::kF32) {
    const float* values = tensor.as<float>().data() + first;
    for (int64_t i = 0; i < count; ++i) buffer[i] = float_to_bf16(values[i]);
    return buffer;
  }
  VERNIER_CHECK(tensor.dtype == DType::kF16);
  const uint16_t* values = tensor.as<uint16_t>().data() + first;
  for (int64_t i = 0; i < count; ++i) buffer[i] = float_to_bf16(fp16_to_float(values[i]));
  return buffer;
}

}  // namespace vernier::formats
