// What launchers tell the processes that they start, by their environment.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace vernier::comm {

// One of several processes that a launcher started.
struct Launch {
  std::string launcher;                // "srun"
  std::optional<int64_t> n_processes;  // not all launchers say
};

// The value of a variable, null where it is not set: std::getenv, or a test's.
using Environment = std::function<const char*(const char* name)>;

// Nothing where this process was started alone. Throws Environment when a launcher's number is
// none.
std::optional<Launch> find_launch(const Environment& environment);

}  // namespace vernier::comm
