// The ranks that a launcher (mpirun, srun) started, seen from one of them.
#pragma once

#include <memory>

#include "comm/communicator.h"

namespace vernier::comm {

// Ends well when it is destroyed: waits until all ranks have come to their end. So it must outlive
// the catch that calls speaks_for_failure(), and be outlived by no communicator made of it.
class World {
 public:
  virtual ~World() = default;

  virtual const Communicator& all() const = 0;
  // Called once by a rank that fails, with what it would exit with. Where all ranks fail at about
  // the same moment, true on the first of them alone: it says why, for all. Where others still run,
  // true here; end() then ends them.
  virtual bool speaks_for_failure(int status) = 0;
  // Ends the process, and all other ranks where they did not fail by themselves.
  [[noreturn]] virtual void end(int status) = 0;
};

// A launcher's ranks where this process is one of several, else this process alone. Once in a
// process; calls to it and to its groups come from the thread that opened it. Throws
// Unsupported where a launcher started several and this build has no MPI, Environment where MPI
// sees another number of them than the launcher.
std::unique_ptr<World> open_world();

}  // namespace vernier::comm
