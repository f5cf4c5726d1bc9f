// How ranks that a launcher started find each other without MPI: the first listens at an address
// that all were told; the others come there, say who they are and where they listen, and are told
// of each other; then each pair connects. Nobody proves who it is: the network must be trusted.
#pragma once

#include <chrono>
#include <vector>

#include "comm/socket.h"

namespace vernier::comm {

// What a launcher tells each rank.
struct Seat {
  int rank = 0;
  int n_ranks = 1;
  Address first;  // where rank 0 listens
};

// One rank's connections, by rank; none to itself.
struct Mesh {
  int rank = 0;
  std::vector<Socket> talks;     // to every rank, for communicators
  std::vector<Socket> controls;  // to rank 0, and of rank 0 to every rank: how each ends
};

// Launchers may start some ranks minutes after others.
constexpr std::chrono::milliseconds kPatience = std::chrono::minutes(5);

// Returns when this rank is connected with all others. Throws Environment where rank 0 cannot
// listen there or refuses this rank (another number of ranks, a rank that has come already), and
// CommFault where not all come in time or one goes again.
Mesh meet(const Seat& seat, std::chrono::milliseconds patience = kPatience);

}  // namespace vernier::comm
