// Every check over TCP, and what only this communicator promises. Ranks are threads.
#include "comm/communicator_tcp.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/testing.h"
#include "comm/communicator_checks.h"
#include "comm/tcp_ranks.h"

namespace vernier::comm {
namespace {

using ::testing::HasSubstr;

class TcpTest : public ::testing::TestWithParam<CommunicatorCheck> {};

TEST_P(TcpTest, KeepsTheContract) {
  for (const int n_ranks : {2, 3, 5}) {
    run_tcp_ranks(n_ranks,
                  [](const Mesh& mesh) { GetParam().run(*tcp_communicator(mesh), nullptr); });
  }
}

INSTANTIATE_TEST_SUITE_P(All, TcpTest,
                         ::testing::ValuesIn(communicator_checks().begin(),
                                             communicator_checks().end()),
                         [](const auto& info) { return std::string(info.param.name); });

// More than connections hold by themselves: ranks that sent first and received then would hang.
TEST(TcpCommunicatorTest, ExchangesMoreThanConnectionsHold) {
  run_tcp_ranks(3, [](const Mesh& mesh) {
    const auto group = tcp_communicator(mesh);
    constexpr int64_t kRows = 5000, kCols = 1024;
    Matrix own(3 * kRows, kCols), arrived(3 * kRows, kCols);
    std::ranges::fill(own.values(), static_cast<float>(mesh.rank + 1));
    const std::vector<int64_t> n_each(3, kRows);
    group->exchange_rows(own.view(), n_each, arrived.view(), n_each);
    for (int from = 0; from < 3; ++from) {
      const ConstMatrixView theirs = arrived.view().row_range(from * kRows, kRows);
      EXPECT_EQ(theirs.row(0)[0], static_cast<float>(from + 1));
      EXPECT_EQ(theirs.row(kRows - 1)[kCols - 1], static_cast<float>(from + 1));
    }
  });
}

// In the order of ranks, whichever rank adds: (1e8 + 1) - 1e8 is 0 in FP32, 1 in another order.
TEST(TcpCommunicatorTest, AddsInTheOrderOfRanks) {
  run_tcp_ranks(3, [](const Mesh& mesh) {
    constexpr float kShown[] = {1e8f, 1, -1e8f};
    Matrix values(1, 30);
    std::ranges::fill(values.values(), kShown[mesh.rank]);
    tcp_communicator(mesh)->sum(values.view());
    EXPECT_EQ(std::ranges::count(values.values(), 0.0f), 30);
  });
}

Error error_of_ranks(const std::function<void(const Communicator& group)>& body) {
  return error_of([&] {
    run_tcp_ranks(3, [&](const Mesh& mesh) {
      const auto group = tcp_communicator(mesh);
      body(*group);
    });
  });
}

TEST(TcpCommunicatorTest, NoticesRanksThatMakeOtherCalls) {
  const Error error = error_of_ranks([](const Communicator& group) {
    std::vector<int64_t> values(group.rank() == 1 ? 6 : 3);
    group.sum(values);
  });
  EXPECT_EQ(error.kind(), ErrorKind::kCommFault);
  EXPECT_THAT(error.message(), HasSubstr("rank 1 sent 16 bytes (message 0 of group 0), expected "
                                         "8 (message 0 of group 0): do all ranks have the same"));
}

TEST(TcpCommunicatorTest, NoticesRanksThatTalkInOtherGroups) {
  const Error error = error_of_ranks([](const Communicator& group) {
    const auto part = group.split(0);
    if (group.rank() == 1) {
      part->barrier();
    } else {
      group.barrier();
    }
  });
  EXPECT_EQ(error.kind(), ErrorKind::kCommFault);
  EXPECT_THAT(error.message(), HasSubstr("rank 1 sent 0 bytes (message 0 of group "));
  EXPECT_THAT(error.message(), HasSubstr("expected 0 (message 1 of group 0)"));
}

TEST(TcpCommunicatorTest, NoticesARankThatLeaves) {
  const Error error = error_of_ranks([](const Communicator& group) {
    if (group.rank() != 1) group.barrier();
  });
  EXPECT_EQ(error.kind(), ErrorKind::kCommFault);
  EXPECT_THAT(error.message(), HasSubstr("rank 1 has gone"));
}

}  // namespace
}  // namespace vernier::comm
