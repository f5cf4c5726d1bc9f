// Element types: exactly those of the safetensors format, in its order.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace vernier {

// The order is the safetensors writer's: a file lists its tensors by descending DType, then by
// name.
enum class DType : uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

struct DTypeInfo {
  DType dtype;
  std::string_view name;  // as safetensors spells it: "BF16"
  int bits;
};

const DTypeInfo& dtype_info(DType dtype);
std::optional<DType> dtype_from_name(std::string_view name);

}  // namespace vernier
