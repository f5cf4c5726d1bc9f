#include "comm/launch.h"

#include <gtest/gtest.h>

#include <map>

#include "base/testing.h"

namespace vernier::comm {
namespace {

using Variables = std::map<std::string, std::string>;

std::optional<Launch> launch_in(const Variables& variables) {
  return find_launch([&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

TEST(LaunchTest, IsFoundWhereALauncherStartedSeveral) {
  struct Case {
    Variables variables;
    std::string launcher;
    std::optional<int64_t> n_processes;
  };
  const Case cases[] = {
      {{{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "16"}}, "mpirun", 16},
      {{{"PMI_RANK", "3"}, {"PMI_SIZE", "4"}}, "mpiexec", 4},
      {{{"SLURM_PROCID", "1"}, {"SLURM_STEP_NUM_TASKS", "2"}, {"SLURM_NTASKS", "2"}}, "srun", 2},
      {{{"PMIX_RANK", "0"}}, "a PMIx launcher", std::nullopt},
      // Open MPI's processes see all of these.
      {{{"OMPI_COMM_WORLD_RANK", "0"},
        {"OMPI_COMM_WORLD_SIZE", "4"},
        {"PMIX_RANK", "0"},
        {"SLURM_PROCID", "0"},
        {"SLURM_STEP_NUM_TASKS", "1"}},
       "mpirun",
       4},
  };
  for (const Case& good : cases) {
    const std::optional<Launch> launch = launch_in(good.variables);
    ASSERT_TRUE(launch.has_value()) << good.launcher;
    EXPECT_EQ(launch->launcher, good.launcher);
    EXPECT_EQ(launch->n_processes, good.n_processes);
  }
}

TEST(LaunchTest, IsNoneForAProcessAlone) {
  const Variables cases[] = {
      {},
      {{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "1"}, {"PMIX_RANK", "0"}},
      {{"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}},
      // A batch script of a job that may start eight.
      {{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_JOB_ID", "77"}},
  };
  for (const Variables& variables : cases) EXPECT_FALSE(launch_in(variables).has_value());
}

TEST(LaunchTest, RejectsANumberThatIsNone) {
  for (const char* bad : {"", "many", "0", "-4", "4 ranks"}) {
    const Error error = error_of([&] { launch_in({{"PMI_RANK", "0"}, {"PMI_SIZE", bad}}); });
    EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
    EXPECT_EQ(error.message(), std::string("the environment variable PMI_SIZE is '") + bad +
                                   "', expected the number of processes that mpiexec started");
  }
}

}  // namespace
}  // namespace vernier::comm
