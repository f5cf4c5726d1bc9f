// What launchers tell the processes that they start, by their environment.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "comm/rendezvous.h"

namespace vernier::comm {

// Whether a launcher's processes find each other by MPI, which it then speaks, or over TCP.
enum class Carrier { kMpi, kTcp, kMpiElseTcp };

// One of several processes that a launcher started.
struct Launch {
  std::string launcher;                // "srun"
  std::optional<int64_t> n_processes;  // not all launchers say
  Carrier carrier = Carrier::kMpi;
};

// The value of a variable, null where it is not set: std::getenv, or a test's.
using Environment = std::function<const char*(const char* name)>;

// Nothing where this process was started alone. Throws Environment when a launcher's number is
// none.
std::optional<Launch> find_launch(const Environment& environment);

bool goes_over_mpi(const Launch& launch, bool has_mpi);

// Where a process over TCP finds the others. Throws Environment, naming the variable, where one is
// missing or makes no sense.
Seat find_seat(const Launch& launch, const Environment& environment);

}  // namespace vernier::comm
