// Sizes as flags spell them: "10GB", "500MB", "1.5 GiB", "4096".
#pragma once

#include <cstdint>
#include <string>

namespace vernier::cli {

// Decimal units (kB, MB, GB, TB) and binary ones (KiB, MiB, GiB, TiB), case-insensitive. Throws
// InvalidArgument naming the flag.
int64_t parse_byte_size(const std::string& flag, const std::string& text);

}  // namespace vernier::cli
