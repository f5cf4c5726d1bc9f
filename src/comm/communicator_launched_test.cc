// Every check by each of the ranks that a launcher started, over what it has them talk.
#include <gtest/gtest.h>

#include <string>

#include "comm/communicator_checks.h"
#include "comm/world.h"

namespace vernier::comm {
namespace {

const Communicator* all_ranks = nullptr;  // while main() runs

class LaunchedTest : public ::testing::TestWithParam<CommunicatorCheck> {};

TEST_P(LaunchedTest, KeepsTheContract) { GetParam().run(*all_ranks, nullptr); }

INSTANTIATE_TEST_SUITE_P(All, LaunchedTest,
                         ::testing::ValuesIn(communicator_checks().begin(),
                                             communicator_checks().end()),
                         [](const auto& info) { return std::string(info.param.name); });

int run(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const std::unique_ptr<World> world = open_world([](const std::string&) {});
  all_ranks = &world->all();
  return RUN_ALL_TESTS();
}

}  // namespace
}  // namespace vernier::comm

int main(int argc, char** argv) { return vernier::comm::run(argc, argv); }
