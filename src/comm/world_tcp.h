// Ranks that find each other over TCP.
#pragma once

#include "comm/rendezvous.h"
#include "comm/world.h"

namespace vernier::comm {

std::unique_ptr<World> tcp_world(const Seat& seat, Complain complain);

}  // namespace vernier::comm
