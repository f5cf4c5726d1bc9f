#include "comm/socket.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/testing.h"

namespace vernier::comm {
namespace {

TEST(SocketTest, WritesAddresses) {
  EXPECT_EQ(to_string({"node1", 29500}), "node1:29500");
  EXPECT_EQ(to_string({"fe80::1", 29500}), "[fe80::1]:29500");
  EXPECT_TRUE(is_loopback("127.0.1.1"));
  EXPECT_TRUE(is_loopback("::1"));
  EXPECT_FALSE(is_loopback("10.0.0.1"));
}

TEST(SocketTest, SaysWhoDidNotAnswerInTime) {
  auto [here, there] = connected_sockets();
  here.name_peer("rank 3");
  const Deadline soon = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
  std::byte byte = {};
  const Error error = error_of([&] { receive_all(here, {&byte, 1}, soon); });
  EXPECT_EQ(error.kind(), ErrorKind::kCommFault);
  EXPECT_EQ(error.message(), "rank 3 has said nothing for too long");
}

// Writing to a connection whose other end is closed ends no process.
TEST(SocketTest, SaysWhoHasGone) {
  auto [here, there] = connected_sockets();
  here.name_peer("rank 3");
  there = Socket();
  std::byte byte = {};
  EXPECT_EQ(error_of([&] {
              send_all(here, {&byte, 1});
            }).message(),
            "rank 3 has gone (Broken pipe)");
  EXPECT_EQ(error_of([&] { receive_all(here, {&byte, 1}); }).message(), "rank 3 has gone");
}

// Limits the process to the files that it has open.
class NoMoreFiles {
 public:
  NoMoreFiles() {
    const int next = ::dup(STDIN_FILENO);
    ::close(next);
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit now = {static_cast<rlim_t>(next), before_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &now);
  }
  ~NoMoreFiles() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_ = {};
};

TEST(SocketTest, SaysThatNoMoreConnectionsCanBeTaken) {
  const Socket listener = listen_on(0);
  const Socket guest = connect_to({"127.0.0.1", port_of(listener)}, kNever);
  const NoMoreFiles no_more;
  const Error error = error_of([&] { accept_waiting(listener); });
  EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
  EXPECT_EQ(error.message(),
            "no more connections can be taken (Too many open files): raise ulimit -n");
}

}  // namespace
}  // namespace vernier::comm
