// How ranks over MPI end: every rank that comes to its end, well or not, joins one reduction over a
// group of its own; it completes only where no rank is left that still computes, or waits for one
// that has failed.
#include "comm/world_mpi.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <thread>

#include "base/error.h"
#include "comm/communicator_mpi.h"

namespace vernier::comm {
namespace {

using Clock = std::chrono::steady_clock;

// Ranks that fail alike, over a bad flag say, do so within this of each other.
constexpr auto kFailingTogether = std::chrono::seconds(2);

class MpiWorld : public World {
 public:
  MpiWorld() {
    MPI_Comm everyone = MPI_COMM_NULL;
    VERNIER_MPI_CALL(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    VERNIER_MPI_CALL(MPI_Comm_dup(MPI_COMM_WORLD, &endings_));
    VERNIER_MPI_CALL(MPI_Comm_dup(MPI_COMM_WORLD, &everyone));
    all_ = mpi_communicator(everyone);
  }

  // Waits for the others, since one may yet fail and end all. Where an exception passes that nobody
  // has spoken for, the launcher ends the others when this process exits.
  ~MpiWorld() override {
    if (std::uncaught_exceptions() > 0) return;
    join_ending(false, Clock::time_point::max());
    all_.reset();
    MPI_Comm_free(&endings_);
    MPI_Finalize();
  }

  const Communicator& all() const override { return *all_; }

  bool speaks_for_failure(int status) override {
    all_failed_ = join_ending(status != 0, Clock::now() + kFailingTogether);
    return !all_failed_ || all_->rank() == 0;
  }

  void end(int status) override {
    std::fflush(nullptr);
    if (all_failed_) {
      MPI_Finalize();
      std::exit(status);
    }
    MPI_Abort(MPI_COMM_WORLD, status);
    std::_Exit(status);
  }

 private:
  // Whether all ranks have come to their end before the deadline, and all in failure.
  bool join_ending(bool has_failed, Clock::time_point deadline) {
    failed_here_ = has_failed;
    MPI_Request request = MPI_REQUEST_NULL;
    if (MPI_Iallreduce(&failed_here_, &failed_everywhere_, 1, MPI_INT, MPI_MIN, endings_,
                       &request) != MPI_SUCCESS) {
      return false;
    }
    int is_done = 0;
    while (MPI_Test(&request, &is_done, MPI_STATUS_IGNORE) == MPI_SUCCESS) {
      if (is_done != 0) return failed_everywhere_ != 0;
      if (Clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  MPI_Comm endings_ = MPI_COMM_NULL;
  std::unique_ptr<Communicator> all_;
  // Members, since a reduction that does not complete keeps their addresses.
  int failed_here_ = 0;
  int failed_everywhere_ = 0;
  bool all_failed_ = false;
};

// Where the launcher and MPI's library are strangers, each process takes itself for the only one.
void require_all(const Launch& launch) {
  int n_ranks = 0;
  VERNIER_MPI_CALL(MPI_Comm_size(MPI_COMM_WORLD, &n_ranks));
  if (n_ranks == launch.n_processes.value_or(n_ranks)) return;
  throw Error(ErrorKind::kEnvironment,
              fmt::format("{} started {} processes, but MPI sees {}: start them by the mpirun of "
                          "the MPI that this program was built with, or by srun --mpi=pmix",
                          launch.launcher, *launch.n_processes, n_ranks));
}

// One thread of a process talks, others compute.
void initialize_mpi() {
  int provided = MPI_THREAD_SINGLE;
  VERNIER_MPI_CALL(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided));
  if (provided < MPI_THREAD_FUNNELED) {
    throw Error(ErrorKind::kUnsupported,
                "this machine's MPI allows no threads beside it, expected MPI_THREAD_FUNNELED");
  }
}

}  // namespace

bool has_mpi() { return true; }

std::unique_ptr<World> mpi_world(const Launch& launch) {
  initialize_mpi();
  require_all(launch);
  return std::make_unique<MpiWorld>();
}

}  // namespace vernier::comm
