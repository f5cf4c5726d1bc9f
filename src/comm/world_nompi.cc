// A build without MPI.
#include <fmt/format.h>

#include "base/error.h"
#include "comm/world_mpi.h"

namespace vernier::comm {

bool has_mpi() { return false; }

std::unique_ptr<World> mpi_world(const Launch& launch) {
  throw Error(ErrorKind::kUnsupported,
              fmt::format("{} started this program as one of several processes, which needs MPI, "
                          "but this build has none: install libopenmpi-dev and build again, or "
                          "start them by torchrun or srun",
                          launch.launcher));
}

}  // namespace vernier::comm
