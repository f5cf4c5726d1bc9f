#include "comm/launch.h"

#include <gtest/gtest.h>

#include <map>

#include "base/testing.h"

namespace vernier::comm {
namespace {

using Variables = std::map<std::string, std::string>;

// `variables` must outlive it.
Environment in(const Variables& variables) {
  return [&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  };
}

Seat seat_in(const Variables& variables) {
  const Environment environment = in(variables);
  const std::optional<Launch> launch = find_launch(environment);
  return find_seat(launch.value(), environment);
}

Variables with(Variables variables, const Variables& more) {
  for (const auto& [name, value] : more) variables[name] = value;
  return variables;
}

Variables without(Variables variables, const std::string& name) {
  variables.erase(name);
  return variables;
}

const Variables kTorchrun = {
    {"RANK", "3"}, {"WORLD_SIZE", "16"}, {"MASTER_ADDR", "node1"}, {"MASTER_PORT", "29500"}};
const Variables kSrun = {{"SLURM_PROCID", "1"},  {"SLURM_STEP_NUM_TASKS", "2"},
                         {"SLURM_NTASKS", "2"},  {"SLURM_STEP_NODELIST", "node[07-08]"},
                         {"SLURM_JOB_ID", "77"}, {"SLURM_STEP_ID", "3"}};

TEST(LaunchTest, IsFoundWhereALauncherStartedSeveral) {
  struct Case {
    Variables variables;
    std::string launcher;
    std::optional<int64_t> n_processes;
    Carrier carrier;
  };
  const Variables mpirun = {{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "4"}};
  const Case cases[] = {
      {mpirun, "mpirun", 4, Carrier::kMpi},
      {{{"PMI_RANK", "3"}, {"PMI_SIZE", "4"}}, "mpiexec", 4, Carrier::kMpi},
      {kSrun, "srun", 2, Carrier::kMpiElseTcp},
      {{{"PMIX_RANK", "0"}}, "a PMIx launcher", std::nullopt, Carrier::kMpi},
      {kTorchrun, "torchrun", 16, Carrier::kTcp},
      // Open MPI's processes see all of these.
      {with(mpirun, {{"PMIX_RANK", "0"}, {"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}}),
       "mpirun", 4, Carrier::kMpi},
      // Another job's variables, set around mpirun; and torchrun, which mpirun started.
      {with(mpirun, kTorchrun), "mpirun", 4, Carrier::kMpi},
      {with(mpirun, with(kTorchrun, {{"TORCHELASTIC_RUN_ID", "none"}})), "torchrun", 16,
       Carrier::kTcp},
      // torchrun, which srun started, one a machine.
      {with(kSrun, kTorchrun), "torchrun", 16, Carrier::kTcp},
      // Slurm speaks PMI, as mpiexec does, which it may have started.
      {with(kSrun, {{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}}), "srun", 2, Carrier::kMpiElseTcp},
      {with(kSrun, {{"PMI_RANK", "1"}, {"PMI_SIZE", "16"}}), "mpiexec", 16, Carrier::kMpi},
      // As job scripts set them for other programs.
      {with(kSrun, {{"WORLD_SIZE", "2"}, {"MASTER_ADDR", "node07"}}), "srun", 2,
       Carrier::kMpiElseTcp},
  };
  for (const Case& good : cases) {
    const std::optional<Launch> launch = find_launch(in(good.variables));
    ASSERT_TRUE(launch.has_value()) << good.launcher;
    EXPECT_EQ(launch->launcher, good.launcher);
    EXPECT_EQ(launch->n_processes, good.n_processes);
    EXPECT_EQ(launch->carrier, good.carrier);
  }
}

TEST(LaunchTest, GoesOverMpiWhereTheLauncherSpeaksItAndTheBuildHasIt) {
  for (const bool has_mpi : {false, true}) {
    EXPECT_TRUE(goes_over_mpi({.carrier = Carrier::kMpi}, has_mpi));
    EXPECT_FALSE(goes_over_mpi({.carrier = Carrier::kTcp}, has_mpi));
    EXPECT_EQ(goes_over_mpi({.carrier = Carrier::kMpiElseTcp}, has_mpi), has_mpi);
  }
}

TEST(LaunchTest, IsNoneForAProcessAlone) {
  const Variables cases[] = {
      {},
      {{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "1"}, {"PMIX_RANK", "0"}},
      {{"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}},
      // A batch script of a job that may start eight.
      {{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_JOB_ID", "77"}},
      {{"RANK", "0"}, {"WORLD_SIZE", "1"}},
      {{"MASTER_ADDR", "node1"}, {"MASTER_PORT", "29500"}, {"WORLD_SIZE", "2"}},
  };
  for (const Variables& variables : cases) EXPECT_FALSE(find_launch(in(variables)).has_value());
}

TEST(LaunchTest, RejectsANumberThatIsNone) {
  for (const char* bad : {"", "many", "0", "-4", "4 ranks"}) {
    const Error error = error_of([&] {
      const Variables variables = {{"PMI_RANK", "0"}, {"PMI_SIZE", bad}};
      find_launch(in(variables));
    });
    EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
    EXPECT_EQ(error.message(), std::string("the environment variable PMI_SIZE is '") + bad +
                                   "', expected the number of processes that mpiexec started");
  }
}

TEST(LaunchTest, SaysWhereTheFirstRankListens) {
  struct Case {
    Variables variables;
    int rank, n_ranks;
    std::string first;
  };
  const Case cases[] = {
      {kTorchrun, 3, 16, "node1:29500"},
      // Its agent listens on the port that it names.
      {with(kTorchrun, {{"TORCHELASTIC_USE_AGENT_STORE", "True"}}), 3, 16, "node1:29501"},
      {with(kTorchrun, {{"TORCHELASTIC_USE_AGENT_STORE", "False"}}), 3, 16, "node1:29500"},
      {with(kTorchrun, {{"MASTER_ADDR", "fe80::1"}}), 3, 16, "[fe80::1]:29500"},
      {kSrun, 1, 2, "node07:21235"},
      {with(kSrun, {{"SLURM_STEP_ID", "4"}}), 1, 2, "node07:21236"},
      {with(kSrun, {{"MASTER_PORT", "29500"}}), 1, 2, "node07:29500"},
      {with(kSrun, {{"MASTER_ADDR", "node08"}}), 1, 2, "node08:21235"},
  };
  for (const Case& good : cases) {
    const Seat seat = seat_in(good.variables);
    EXPECT_EQ(seat.rank, good.rank);
    EXPECT_EQ(seat.n_ranks, good.n_ranks);
    EXPECT_EQ(to_string(seat.first), good.first);
  }
}

TEST(LaunchTest, RefusesAnEnvironmentWithoutSense) {
  struct Case {
    Variables variables;
    std::string sentence;
  };
  const Variables agent = with(kTorchrun, {{"TORCHELASTIC_USE_AGENT_STORE", "True"}});
  const Case cases[] = {
      {without(kTorchrun, "WORLD_SIZE"),
       "WORLD_SIZE is not set, expected the number of processes that torchrun started"},
      {with(kTorchrun, {{"WORLD_SIZE", "0"}}),
       "WORLD_SIZE is '0', expected the number of processes that torchrun started"},
      {with(kTorchrun, {{"RANK", "16"}}), "RANK is '16', expected this process's rank, 0 to 15"},
      {with(kTorchrun, {{"RANK", "first"}}),
       "RANK is 'first', expected this process's rank, 0 to 15"},
      {without(kTorchrun, "MASTER_ADDR"),
       "MASTER_ADDR is not set, expected the host of rank 0, since RANK is set as torchrun sets "
       "it"},
      {with(kTorchrun, {{"MASTER_ADDR", ""}}),
       "MASTER_ADDR is '', expected the host of rank 0, since RANK is set as torchrun sets it"},
      {without(kTorchrun, "MASTER_PORT"), "MASTER_PORT is not set, expected a port, 1 to 65535"},
      {with(kTorchrun, {{"MASTER_PORT", "http"}}),
       "MASTER_PORT is 'http', expected a port, 1 to 65535"},
      {with(agent, {{"MASTER_PORT", "65535"}}),
       "MASTER_PORT is '65535', expected a port, 1 to 65534"},
      {with(kSrun, {{"SLURM_PROCID", "2"}}),
       "SLURM_PROCID is '2', expected this process's rank, 0 to 1"},
      {without(kSrun, "SLURM_STEP_NODELIST"),
       "SLURM_STEP_NODELIST is not set, expected the nodes of a job step, as node[01-04]"},
      {with(kSrun, {{"SLURM_STEP_NODELIST", "node["}}),
       "SLURM_STEP_NODELIST is 'node[', expected the nodes of a job step, as node[01-04]"},
      {without(kSrun, "SLURM_STEP_ID"),
       "SLURM_STEP_ID is not set, expected the number of a job step"},
      {with(kSrun, {{"SLURM_JOB_ID", "x"}}),
       "SLURM_JOB_ID is 'x', expected the number of a Slurm job"},
      {with(kSrun, {{"MASTER_PORT", "0"}}), "MASTER_PORT is '0', expected a port, 1 to 65535"},
  };
  for (const Case& bad : cases) {
    const Error error = error_of([&] { seat_in(bad.variables); });
    EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
    EXPECT_EQ(error.message(), "the environment variable " + bad.sentence);
  }
}

}  // namespace
}  // namespace vernier::comm
