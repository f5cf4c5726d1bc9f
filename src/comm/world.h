// The ranks that a launcher (mpirun, srun, torchrun) started, seen from one of them.
#pragma once

#include <functional>
#include <memory>
#include <string>

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

// Tells the user why all end where no rank is left that fails by itself, since one was killed.
// Called from any thread, with one sentence, by one rank.
using Complain = std::function<void(const std::string& sentence)>;

// A launcher's ranks where this process is one of several, else this process alone. Once in a
// process; calls to it and to its groups come from the thread that opened it. Throws Unsupported
// where a launcher wants MPI and this build has none, Environment where what the launcher says
// makes no sense, and what meet() throws (rendezvous.h).
std::unique_ptr<World> open_world(Complain complain);

}  // namespace vernier::comm
