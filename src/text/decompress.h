// Whole compressed files in memory.
#pragma once

#include <string>
#include <string_view>

namespace vernier::text {

// Both read frames that follow one another as one text, and throw Corrupt, naming `file_name`, for
// a damaged or truncated file.
std::string decompress_zstd(std::string_view bytes, std::string_view file_name);
std::string decompress_xz(std::string_view bytes, std::string_view file_name);

}  // namespace vernier::text
