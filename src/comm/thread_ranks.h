// Ranks as threads of one process: for tests of what many ranks do together.
#pragma once

#include <functional>

#include "comm/communicator.h"

namespace vernier::comm {

// Calls body(world) in n threads, one a rank, and returns when all have ended. When one throws,
// or leaves early, others that wait for it throw CommFault; then the exception of the lowest rank
// that failed by itself is thrown.
void run_thread_ranks(int n, const std::function<void(const Communicator& world)>& body);

}  // namespace vernier::comm
