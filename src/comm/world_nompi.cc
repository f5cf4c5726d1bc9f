// A build without MPI: one process is all there is.
#include <fmt/format.h>

#include <cstdlib>

#include "base/error.h"
#include "comm/launch.h"
#include "comm/single_world.h"

namespace vernier::comm {

std::unique_ptr<World> open_world() {
  const std::optional<Launch> launch =
      find_launch([](const char* name) { return std::getenv(name); });
  if (!launch.has_value()) return single_world();
  throw Error(ErrorKind::kUnsupported,
              fmt::format("{} started this program as one of several processes, which needs MPI, "
                          "but this build has none: install libopenmpi-dev and build again, or "
                          "start one process",
                          launch->launcher));
}

}  // namespace vernier::comm
