// The --export-arithmetic flag.
#pragma once

#include <string>

#include "formats/scale_rule.h"

namespace vernier::cli {

// REQUIRES: "cuda" or "cpu", which the flag's check has seen to.
inline formats::Arithmetic parse_arithmetic(const std::string& name) {
  return name == "cpu" ? formats::Arithmetic::kCpu : formats::Arithmetic::kCuda;
}

}  // namespace vernier::cli
