// Quantities as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace vernier::report {

std::string format_bytes(int64_t bytes);      // decimal: "26.4 MB"
std::string format_count(int64_t count);      // "12,070,912"
std::string format_duration(double seconds);  // "0.4 s", "1 min 05 s", "2 h 03 min"
std::string format_rate(double per_second, const std::string& unit);  // "21.2 k tokens/s"

}  // namespace vernier::report
