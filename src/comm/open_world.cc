// How ranks are connected: as their launcher expects, see launch.h.
#include <cstdlib>

#include "comm/launch.h"
#include "comm/single_world.h"
#include "comm/world_mpi.h"
#include "comm/world_tcp.h"

namespace vernier::comm {

std::unique_ptr<World> open_world(Complain complain) {
  const Environment environment = [](const char* name) { return std::getenv(name); };
  const std::optional<Launch> launch = find_launch(environment);
  if (!launch.has_value()) return single_world();
  if (goes_over_mpi(*launch, has_mpi())) return mpi_world(*launch);
  return tcp_world(find_seat(*launch, environment), std::move(complain));
}

}  // namespace vernier::comm
