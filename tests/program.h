// Running the built program from a test, and the scratch checkpoints such tests need.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace vernier::tests {

struct Outcome {
  int status = 0;  // exit status, or 128 + the signal
  std::string out;
  std::string err;
};

using Arguments = std::vector<std::string>;

inline Arguments operator+(Arguments left, const Arguments& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

// Runs `vernier args...` in `directory`, on the host where they name no device, and waits for it.
Outcome run(const Arguments& args, const std::filesystem::path& directory);

// What starts ranks: mpirun, or what sets torchrun's variables, which works in every build.
enum class Launcher { kMpirun, kTorchrun };
// mpirun in a build with MPI.
Launcher usual_launcher();
// The same on n ranks.
Outcome run_ranks(int n, const Arguments& args, const std::filesystem::path& directory,
                  Launcher launcher = usual_launcher());
// Kills one of n ranks with SIGKILL, the one that `victim` picks of as many, `delay` after all
// have started.
struct RanksKilled {
  bool is_killed = false;  // false when all had ended before
  Outcome outcome;
  double seconds_to_end = 0;  // from the kill to the end of all
  int n_left = 0;             // ranks that still ran a second later
};
RanksKilled run_ranks_and_kill(int n, const Arguments& args, const std::filesystem::path& directory,
                               size_t victim, std::chrono::milliseconds delay);

// Starts it, kills it with SIGKILL once `is_time` says so (asked every millisecond), and waits.
// True if it was killed, false if it ended before.
bool run_and_kill(const Arguments& args, const std::filesystem::path& directory,
                  const std::function<bool()>& is_time);

// Fails, showing what it printed, unless it ended with status 0.
void expect_success(const Outcome& outcome);

// Expects that a job, whose arguments end with the flag of its output directory, gives the same
// files when it is killed, each time its journal has grown to one of these sizes, and run again.
void expect_same_when_killed(const Arguments& args, const std::filesystem::path& directory,
                             const std::vector<uintmax_t>& journal_bytes);

// A fresh directory that goes away with the object.
class ScratchDirectory {
 public:
  ScratchDirectory();
  ~ScratchDirectory();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::filesystem::path source_dir();
// The bundled model, and a golden checkpoint ("latent", "grouped").
std::filesystem::path tiny_model();
std::filesystem::path golden_checkpoint(const std::string& name);

// A writable copy of a checkpoint directory's files.
void copy_checkpoint(const std::filesystem::path& from, const std::filesystem::path& to);

// Fails, naming the files, unless both directories hold the same files with the same bytes.
void expect_same_files(const std::filesystem::path& left, const std::filesystem::path& right);

// Every file below a directory: relative name and bytes.
std::vector<std::pair<std::string, std::string>> files_of(const std::filesystem::path& directory);

}  // namespace vernier::tests
