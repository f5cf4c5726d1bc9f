// Groups of processes over TCP.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "comm/rendezvous.h"

namespace vernier::comm {

// The group of all ranks of a mesh, which must outlive it and all groups made of it.
std::unique_ptr<Communicator> tcp_communicator(const Mesh& mesh);

}  // namespace vernier::comm
