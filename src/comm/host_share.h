// Ranks of one machine, which share its memory and its devices.
#pragma once

#include "comm/communicator.h"
#include "comm/layout.h"

namespace vernier::comm {

// This rank among those whose machine has the same host name.
Share share_of_host(const Communicator& world);

}  // namespace vernier::comm
