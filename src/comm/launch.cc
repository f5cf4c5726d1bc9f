#include "comm/launch.h"

#include <fmt/format.h>

#include <charconv>
#include <cstring>

#include "base/error.h"

namespace vernier::comm {
namespace {

struct Launcher {
  const char* name;
  const char* rank;  // variables
  const char* size;  // null: it does not say
};

// The first that speaks counts: mpirun inside of a Slurm job starts its own processes. Slurm's
// variables are those of a job step, since a batch script is told how many tasks the job may have.
constexpr Launcher kLaunchers[] = {
    {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
    {"mpiexec", "PMI_RANK", "PMI_SIZE"},
    {"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"},
    {"a PMIx launcher", "PMIX_RANK", nullptr},
};

int64_t parse_size(const Launcher& launcher, const char* text) {
  int64_t size = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, size);
  if (error != std::errc() || stop != end || size < 1) {
    throw Error(ErrorKind::kEnvironment,
                fmt::format("the environment variable {} is '{}', expected the number of processes "
                            "that {} started",
                            launcher.size, text, launcher.name));
  }
  return size;
}

}  // namespace

std::optional<Launch> find_launch(const Environment& environment) {
  for (const Launcher& launcher : kLaunchers) {
    if (environment(launcher.rank) == nullptr) continue;
    if (launcher.size == nullptr) return Launch{launcher.name, std::nullopt};
    const char* size = environment(launcher.size);
    if (size == nullptr) continue;
    const int64_t n_processes = parse_size(launcher, size);
    if (n_processes == 1) return std::nullopt;
    return Launch{launcher.name, n_processes};
  }
  return std::nullopt;
}

}  // namespace vernier::comm
