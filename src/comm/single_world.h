// The world of a process that was started alone.
#pragma once

#include "comm/world.h"

namespace vernier::comm {

std::unique_ptr<World> single_world();

}  // namespace vernier::comm
