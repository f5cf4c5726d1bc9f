// The --dtype flag of quantize and export.
#pragma once

#include <optional>
#include <string>

#include "tensor/dtype.h"

namespace vernier::cli {

// Absent for "auto". Throws InvalidArgument listing the accepted names.
std::optional<DType> parse_export_dtype(const std::string& name);

// Throws InvalidArgument unless empty, float32, float16 or bfloat16.
void check_ssm_cache_dtype(const std::string& name);

}  // namespace vernier::cli
