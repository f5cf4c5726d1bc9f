// Every check over MPI, by each of the ranks that mpirun started.
#include <gtest/gtest.h>

#include "comm/communicator_checks.h"
#include "comm/world.h"

namespace vernier::comm {
namespace {

const Communicator* all_ranks = nullptr;  // while main() runs

class MpiTest : public ::testing::TestWithParam<CommunicatorCheck> {};

TEST_P(MpiTest, KeepsTheContract) { GetParam().run(*all_ranks, nullptr); }

INSTANTIATE_TEST_SUITE_P(All, MpiTest,
                         ::testing::ValuesIn(communicator_checks().begin(),
                                             communicator_checks().end()),
                         [](const auto& info) { return std::string(info.param.name); });

int run(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const std::unique_ptr<World> world = open_world();
  all_ranks = &world->all();
  return RUN_ALL_TESTS();
}

}  // namespace
}  // namespace vernier::comm

int main(int argc, char** argv) { return vernier::comm::run(argc, argv); }
