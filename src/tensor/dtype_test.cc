#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <string_view>

namespace vernier {
namespace {

struct Row {
  DType dtype;
  std::string_view name;
  int bits;
};

// The element types of the safetensors format, in the order of its writer.
constexpr Row kRows[] = {
    {DType::kBool, "BOOL", 8},      {DType::kF4, "F4", 4},          {DType::kF6E2M3, "F6_E2M3", 6},
    {DType::kF6E3M2, "F6_E3M2", 6}, {DType::kU8, "U8", 8},          {DType::kI8, "I8", 8},
    {DType::kF8E5M2, "F8_E5M2", 8}, {DType::kF8E4M3, "F8_E4M3", 8}, {DType::kF8E8M0, "F8_E8M0", 8},
    {DType::kI16, "I16", 16},       {DType::kU16, "U16", 16},       {DType::kF16, "F16", 16},
    {DType::kBF16, "BF16", 16},     {DType::kI32, "I32", 32},       {DType::kU32, "U32", 32},
    {DType::kF32, "F32", 32},       {DType::kC64, "C64", 64},       {DType::kF64, "F64", 64},
    {DType::kI64, "I64", 64},       {DType::kU64, "U64", 64},
};

TEST(DTypeTest, TableIsThatOfTheFormat) {
  int ordinal = 0;
  for (const Row& row : kRows) {
    EXPECT_EQ(static_cast<int>(row.dtype), ordinal++);
    EXPECT_EQ(dtype_info(row.dtype).dtype, row.dtype);
    EXPECT_EQ(dtype_info(row.dtype).name, row.name);
    EXPECT_EQ(dtype_info(row.dtype).bits, row.bits) << row.name;
    EXPECT_EQ(dtype_from_name(row.name), row.dtype);
  }
}

TEST(DTypeTest, UnknownNamesAreAbsent) {
  for (const std::string_view name : {"", "bf16", "BF16 ", "FLOAT", "F8"}) {
    EXPECT_EQ(dtype_from_name(name), std::nullopt) << name;
  }
}

}  // namespace
}  // namespace vernier
