// Ranks that MPI connects, in a build that has it.
#pragma once

#include "comm/launch.h"
#include "comm/world.h"

namespace vernier::comm {

bool has_mpi();
// Throws Unsupported in a build without, Environment where MPI sees another number of ranks than
// the launcher.
std::unique_ptr<World> mpi_world(const Launch& launch);

}  // namespace vernier::comm
