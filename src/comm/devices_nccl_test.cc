// Every check with matrices on devices that talk over NCCL: ranks are threads, each with a device.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <string>

#include "comm/communicator_checks.h"
#include "comm/nccl_communicator.h"
#include "comm/thread_ranks.h"

namespace vernier::comm {
namespace {

class DevicesTest : public ::testing::TestWithParam<CommunicatorCheck> {};

TEST_P(DevicesTest, KeepTheContract) {
  const int n_ranks = std::min(n_devices(), 4);
  if (n_ranks < 2) GTEST_SKIP() << "needs two devices, " << n_devices() << " found";
  // Devices of one process would read each other's memory directly, which that of a pool forbids.
  setenv("NCCL_P2P_DIRECT_DISABLE", "1", 1);
  run_thread_ranks(n_ranks, [run = GetParam().run](const Communicator& world) {
    const auto device = open_device({.index = world.rank()});
    const auto group = with_device(world.split(0), device.get());
    run(*group, device.get());
    run(*group, nullptr);
  });
}

INSTANTIATE_TEST_SUITE_P(All, DevicesTest,
                         ::testing::ValuesIn(communicator_checks().begin(),
                                             communicator_checks().end()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace vernier::comm
