#include "comm/thread_ranks.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>

#include "base/testing.h"

namespace vernier::comm {
namespace {

[[noreturn]] void fail() { throw Error(ErrorKind::kCorrupt, "shard 0 is cut short"); }

// What four ranks do: rank 0 fails, and the others wait for it or for one that does.
struct Failure {
  const char* name;
  void (*run)(const Communicator& world);
};

std::ostream& operator<<(std::ostream& out, const Failure& failure) { return out << failure.name; }

const Failure kFailures[] = {
    {"Barrier",
     [](const Communicator& world) {
       if (world.rank() == 0) fail();
       world.barrier();
     }},
    // Ranks 2 and 3 need nobody but each other, until they need all.
    {"Group",
     [](const Communicator& world) {
       const auto pair = world.split(world.rank() / 2);
       if (world.rank() == 0) fail();
       pair->barrier();
       world.barrier();
     }},
    {"Receive",
     [](const Communicator& world) {
       if (world.rank() == 0) fail();
       Matrix values(1, 1);
       world.receive(values, world.rank() - 1);
     }},
    {"Send",
     [](const Communicator& world) {
       if (world.rank() == 0) fail();
       world.send(Matrix(1, 1), world.rank() - 1);
     }},
};

class FailureTest : public ::testing::TestWithParam<Failure> {};

TEST_P(FailureTest, OfOneRankEndsAllAndIsTheOneThrown) {
  std::atomic<int> n_comm_faults = 0;
  const Error error = error_of([&] {
    run_thread_ranks(4, [&](const Communicator& world) {
      try {
        GetParam().run(world);
      } catch (const Error& caught) {
        n_comm_faults += caught.kind() == ErrorKind::kCommFault;
        throw;
      }
    });
  });
  EXPECT_EQ(n_comm_faults, 3);
  EXPECT_EQ(error.kind(), ErrorKind::kCorrupt);
  EXPECT_EQ(error.message(), "shard 0 is cut short");
}

INSTANTIATE_TEST_SUITE_P(All, FailureTest, ::testing::ValuesIn(kFailures),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(ThreadRanksTest, ThrowTheLowestOfThoseThatFailByThemselves) {
  const Error error = error_of([] {
    run_thread_ranks(4, [](const Communicator& world) {
      if (world.rank() < 2) world.barrier();
      throw Error(ErrorKind::kNotFound, "rank " + std::to_string(world.rank()));
    });
  });
  EXPECT_EQ(error.message(), "rank 2");
}

TEST(ThreadRanksTest, OneThatLeavesEarlyFailsThoseThatWaitForIt) {
  const Error error = error_of([] {
    run_thread_ranks(3, [](const Communicator& world) {
      if (world.rank() != 1) world.barrier();
    });
  });
  EXPECT_EQ(error.kind(), ErrorKind::kCommFault);
  EXPECT_EQ(error.message(), "rank 1 has gone before all was done");
}

}  // namespace
}  // namespace vernier::comm
