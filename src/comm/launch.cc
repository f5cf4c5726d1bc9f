#include "comm/launch.h"

#include <fmt/format.h>

#include <charconv>
#include <limits>
#include <string_view>

#include "base/check.h"
#include "base/error.h"
#include "comm/slurm_nodes.h"

namespace vernier::comm {
namespace {

struct Launcher {
  const char* name;
  const char* sign;  // variables: this one is set by it
  const char* size;  // null: it does not say
  Carrier carrier;
};

// The first that speaks counts. Whoever starts torchrun, by srun or mpirun, starts one a machine:
// its own processes see the variables of both. Likewise mpirun inside of a Slurm job. RANK may also
// be set by hand, or by another launcher that follows torchrun. Slurm's variables are those of a
// job step, since a batch script is told how many tasks the job may have.
constexpr Launcher kLaunchers[] = {
    {"torchrun", "TORCHELASTIC_RUN_ID", "WORLD_SIZE", Carrier::kTcp},
    {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", Carrier::kMpi},
    {"mpiexec", "PMI_RANK", "PMI_SIZE", Carrier::kMpi},
    {"torchrun", "RANK", "WORLD_SIZE", Carrier::kTcp},
    {"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", Carrier::kMpiElseTcp},
    {"a PMIx launcher", "PMIX_RANK", nullptr, Carrier::kMpi},
};

[[noreturn]] void refuse(const char* name, const char* text, std::string_view expected) {
  const std::string found = text == nullptr ? "not set" : fmt::format("'{}'", text);
  throw Error(ErrorKind::kEnvironment,
              fmt::format("the environment variable {} is {}, expected {}", name, found, expected));
}

struct Range {
  int64_t least, most;
};

int64_t read_number(const Environment& environment, const char* name, Range range,
                    std::string_view expected) {
  const char* text = environment(name);
  if (text == nullptr) refuse(name, text, expected);
  int64_t number = 0;
  const std::string_view digits = text;
  const auto [stop, error] = std::from_chars(digits.begin(), digits.end(), number);
  if (error != std::errc() || stop != digits.end() || number < range.least || number > range.most) {
    refuse(name, text, expected);
  }
  return number;
}

int64_t read_size(const Launcher& launcher, const Environment& environment) {
  return read_number(environment, launcher.size, {1, std::numeric_limits<int>::max()},
                     fmt::format("the number of processes that {} started", launcher.name));
}

int read_rank(const Environment& environment, const char* name, int n_ranks) {
  return static_cast<int>(read_number(environment, name, {0, n_ranks - 1},
                                      fmt::format("this process's rank, 0 to {}", n_ranks - 1)));
}

bool are_same(const Environment& environment, const char* left, const char* right) {
  const char *one = environment(left), *other = environment(right);
  return one != nullptr && other != nullptr && std::string_view(one) == other;
}

// Slurm may set the variables of MPICH's mpiexec for what it starts itself.
bool is_srun_in_disguise(const Launcher& launcher, const Environment& environment) {
  return launcher.sign == std::string_view("PMI_RANK") &&
         are_same(environment, "PMI_RANK", "SLURM_PROCID") &&
         are_same(environment, "PMI_SIZE", "SLURM_STEP_NUM_TASKS");
}

bool has_started_this(const Launcher& launcher, const Environment& environment) {
  if (environment(launcher.sign) == nullptr) return false;
  if (is_srun_in_disguise(launcher, environment)) return false;
  // torchrun's variables come together.
  return launcher.size == nullptr || launcher.carrier == Carrier::kTcp ||
         environment(launcher.size) != nullptr;
}

int read_port(const Environment& environment, int most) {
  return static_cast<int>(
      read_number(environment, "MASTER_PORT", {1, most}, fmt::format("a port, 1 to {}", most)));
}

// torchrun's agent listens on MASTER_PORT itself, says so, and talks with Python alone: its ranks
// take the next port.
int torchrun_port(const Environment& environment) {
  constexpr int kMaxPort = 65535;
  const char* says_so = environment("TORCHELASTIC_USE_AGENT_STORE");
  const bool is_taken = says_so != nullptr && says_so == std::string_view("True");
  return is_taken ? read_port(environment, kMaxPort - 1) + 1 : read_port(environment, kMaxPort);
}

Seat torchrun_seat(int n_ranks, const Environment& environment) {
  const int rank = read_rank(environment, "RANK", n_ranks);
  const char* host = environment("MASTER_ADDR");
  if (host == nullptr || *host == '\0') {
    refuse("MASTER_ADDR", host, "the host of rank 0, since RANK is set as torchrun sets it");
  }
  return {rank, n_ranks, {host, torchrun_port(environment)}};
}

// One for each of a job's first sixteen steps, below the ports that systems give away by
// themselves.
int slurm_port(const Environment& environment) {
  if (environment("MASTER_PORT") != nullptr) return read_port(environment, 65535);
  constexpr int64_t kFirst = 20000, kCount = 10000, kSteps = 16;
  constexpr Range kIds = {0, std::numeric_limits<uint32_t>::max()};
  const int64_t job = read_number(environment, "SLURM_JOB_ID", kIds, "the number of a Slurm job");
  const int64_t step = read_number(environment, "SLURM_STEP_ID", kIds, "the number of a job step");
  return static_cast<int>(kFirst + (job * kSteps + step) % kCount);
}

std::string slurm_host(const Environment& environment) {
  if (const char* host = environment("MASTER_ADDR"); host != nullptr && *host != '\0') return host;
  constexpr const char* kVariable = "SLURM_STEP_NODELIST";
  const char* list = environment(kVariable);
  const std::optional<std::string> host = first_node(list == nullptr ? "" : list);
  if (!host.has_value()) refuse(kVariable, list, "the nodes of a job step, as node[01-04]");
  return *host;
}

Seat slurm_seat(int n_ranks, const Environment& environment) {
  return {read_rank(environment, "SLURM_PROCID", n_ranks),
          n_ranks,
          {slurm_host(environment), slurm_port(environment)}};
}

}  // namespace

std::optional<Launch> find_launch(const Environment& environment) {
  for (const Launcher& launcher : kLaunchers) {
    if (!has_started_this(launcher, environment)) continue;
    Launch launch{.launcher = launcher.name, .n_processes = {}, .carrier = launcher.carrier};
    if (launcher.size != nullptr) launch.n_processes = read_size(launcher, environment);
    if (launch.n_processes == 1) return std::nullopt;
    return launch;
  }
  return std::nullopt;
}

bool goes_over_mpi(const Launch& launch, bool has_mpi) {
  return launch.carrier == Carrier::kMpi || (launch.carrier == Carrier::kMpiElseTcp && has_mpi);
}

Seat find_seat(const Launch& launch, const Environment& environment) {
  VERNIER_CHECK(launch.carrier != Carrier::kMpi && launch.n_processes.has_value());
  const auto n_ranks = static_cast<int>(*launch.n_processes);
  return launch.carrier == Carrier::kTcp ? torchrun_seat(n_ranks, environment)
                                         : slurm_seat(n_ranks, environment);
}

}  // namespace vernier::comm
