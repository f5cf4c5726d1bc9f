#include "export/convert.h"

#include <fmt/format.h>

#include <cmath>

#include "base/check.h"
#include "base/error.h"
#include "formats/bf16.h"
#include "formats/fp16.h"

namespace vernier::exporting {
namespace {

float load(const TensorView& tensor, size_t index) {
  switch (tensor.dtype) {
    case DType::kBF16:
      return formats::bf16_to_float(tensor.as<uint16_t>()[index]);
    case DType::kF16:
      return formats::fp16_to_float(tensor.as<uint16_t>()[index]);
    default:
      return tensor.as<float>()[index];
  }
}

// Stores the nearest value and returns it.
float store(Tensor& tensor, size_t index, float value) {
  switch (tensor.dtype()) {
    case DType::kBF16:
      tensor.as<uint16_t>()[index] = formats::float_to_bf16(value);
      break;
    case DType::kF16:
      tensor.as<uint16_t>()[index] = formats::float_to_fp16(value);
      break;
    default:
      tensor.as<float>()[index] = value;
  }
  return load(tensor.view(), index);
}

bool is_float(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

}  // namespace

Tensor convert_floats(const TensorView& tensor, DType dtype, std::string_view name) {
  VERNIER_CHECK(is_float(tensor.dtype) && is_float(dtype));
  Tensor converted(dtype, tensor.shape);
  const auto n = static_cast<size_t>(tensor.size());
  for (size_t index = 0; index < n; ++index) {
    const float value = load(tensor, index);
    if (std::isfinite(value) && !std::isfinite(store(converted, index, value))) {
      throw Error(ErrorKind::kInvalidArgument,
                  fmt::format("{}: the value {} at element {} does not fit {}", name, value, index,
                              dtype_info(dtype).name));
    }
    if (!std::isfinite(value)) store(converted, index, value);
  }
  return converted;
}

}  // namespace vernier::exporting
