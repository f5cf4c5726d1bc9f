#include "cli/export_dtype.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "base/error.h"

namespace vernier::cli {
namespace {

constexpr std::array<std::pair<const char*, DType>, 3> kTypes = {
    {{"bfloat16", DType::kBF16}, {"float16", DType::kF16}, {"float32", DType::kF32}}};

}  // namespace

std::optional<DType> parse_export_dtype(const std::string& name) {
  if (name == "auto") return std::nullopt;
  for (const auto& [spelling, dtype] : kTypes) {
    if (name == spelling) return dtype;
  }
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("--dtype: '{}', expected auto, bfloat16, float16 or float32", name));
}

void check_ssm_cache_dtype(const std::string& name) {
  for (const auto& [spelling, dtype] : kTypes) {
    if (name.empty() || name == spelling) return;
  }
  throw Error(
      ErrorKind::kInvalidArgument,
      fmt::format("--mamba-ssm-cache-dtype: '{}', expected float32, float16 or bfloat16", name));
}

}  // namespace vernier::cli
