#include "comm/rendezvous.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <string>

#include "base/testing.h"
#include "comm/reception.h"
#include "comm/tcp_ranks.h"

namespace vernier::comm {
namespace {

constexpr std::chrono::milliseconds kLong = std::chrono::seconds(20);
constexpr std::chrono::milliseconds kShort = std::chrono::milliseconds(500);

std::future<Mesh> meet_soon(const Seat& seat, std::chrono::milliseconds patience = kLong) {
  return std::async(std::launch::async, [=] { return meet(seat, patience); });
}

std::string at(int port) { return "127.0.0.1:" + std::to_string(port); }

// Somebody who comes to the first rank and says `text`.
Socket stranger_at(int port, const std::string& text) {
  Socket stranger = connect_when_there(loopback(port), std::chrono::steady_clock::now() + kLong);
  send_all(stranger, std::as_bytes(std::span(text)));
  return stranger;
}

void expect_connected(const Mesh& left, const Mesh& right) {
  send_all(left.talks[right.rank], bytes_of(left.rank));
  int heard = -1;
  receive_all(right.talks[left.rank], writable_bytes_of(heard));
  EXPECT_EQ(heard, left.rank);
  EXPECT_EQ(right.talks[left.rank].peer(), "rank " + std::to_string(left.rank));
}

TEST(RendezvousTest, ConnectsEachPairInWhateverOrderTheyCome) {
  const Address first = loopback(free_port());
  std::vector<std::future<Mesh>> ranks;
  for (const int rank : {2, 1, 0}) {
    ranks.push_back(meet_soon({rank, 3, first}));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  std::vector<Mesh> meshes;
  for (std::future<Mesh>& rank : ranks) meshes.push_back(rank.get());
  for (const Mesh& left : meshes) {
    for (const Mesh& right : meshes) {
      if (left.rank != right.rank) expect_connected(left, right);
    }
  }
}

TEST(RendezvousTest, GoesOnInSpiteOfStrangers) {
  const int port = free_port();
  std::future<Mesh> first = meet_soon({0, 2, loopback(port)});
  std::vector<Socket> strangers;
  for (const std::string text : {"GET / HTTP/1.1\r\n\r\n", "", "vern", "vernier2"}) {
    strangers.push_back(stranger_at(port, text));
  }
  stranger_at(port, "vernier1");  // and goes
  const Mesh second = meet({1, 2, loopback(port)}, kLong);
  expect_connected(first.get(), second);
}

TEST(RendezvousTest, RefusesARankOfAnotherNumberOfRanks) {
  const int port = free_port();
  std::future<Mesh> first = meet_soon({0, 2, loopback(port)});
  const Error error = error_of([&] { meet({1, 3, loopback(port)}, kLong); });
  EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
  EXPECT_EQ(error.message(), "rank 1 was not let in at " + at(port) +
                                 ": the job there has 2 ranks, and this process is one of 3");
  const Mesh second = meet({1, 2, loopback(port)}, kLong);
  expect_connected(first.get(), second);
}

TEST(RendezvousTest, RefusesARankThatHasComeBefore) {
  const int port = free_port();
  std::future<Mesh> first = meet_soon({0, 3, loopback(port)});
  std::future<Mesh> ones[2] = {meet_soon({1, 3, loopback(port)}),
                               meet_soon({1, 3, loopback(port)})};
  // Whichever came second is done first.
  const auto is_done = [&](int i) {
    return ones[i].wait_for(std::chrono::milliseconds(5)) == std::future_status::ready;
  };
  while (!is_done(0) && !is_done(1)) {
  }
  const int refused = is_done(0) ? 0 : 1;
  const Error error = error_of([&] { ones[refused].get(); });
  EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
  EXPECT_EQ(error.message(), "rank 1 was not let in at " + at(port) +
                                 ": another process has come as that rank before");
  const Mesh third = meet({2, 3, loopback(port)}, kLong);
  const Mesh second = ones[1 - refused].get();
  expect_connected(third, second);
  expect_connected(first.get(), second);
}

TEST(RendezvousTest, SaysWhoDidNotCome) {
  const int port = free_port();
  std::future<Mesh> second = meet_soon({1, 4, loopback(port)});
  const Error error = error_of([&] { meet({0, 4, loopback(port)}, kShort); });
  EXPECT_EQ(error.kind(), ErrorKind::kCommFault);
  EXPECT_EQ(error.message(),
            "2 of 4 ranks came to " + at(port) + " within 0.5 s, expected all: missing 2, 3");
  const Error consequence = error_of([&] { second.get(); });
  EXPECT_EQ(consequence.kind(), ErrorKind::kCommFault);
  EXPECT_EQ(consequence.message(), "rank 0 at " + at(port) + " has gone");
}

TEST(RendezvousTest, SaysWhereNobodyListens) {
  const int port = free_port();
  const Error error = error_of([&] { meet({1, 2, loopback(port)}, kShort); });
  EXPECT_EQ(error.kind(), ErrorKind::kCommFault);
  EXPECT_EQ(error.message(), "waiting 0.5 s for the first of 2 ranks: nobody answers at " +
                                 at(port) + " (Connection refused)");
}

TEST(RendezvousTest, SaysWhichHostIsUnknown) {
  const Error error = error_of([&] { meet({1, 2, {"no.such.host.invalid", 1}}, kShort); });
  EXPECT_EQ(error.kind(), ErrorKind::kCommFault);
  EXPECT_EQ(error.message().find("waiting 0.5 s for the first of 2 ranks: nobody answers at "
                                 "no.such.host.invalid:1 ("),
            0u)
      << error.message();
}

TEST(RendezvousTest, SaysThatThePortIsTaken) {
  const Socket taken = listen_on(0);
  const int port = port_of(taken);
  const Error error = error_of([&] { meet({0, 2, loopback(port)}, kShort); });
  EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
  EXPECT_EQ(error.message(), "port " + std::to_string(port) +
                                 " of this machine, where the first rank listens, is not to be "
                                 "had (Address already in use): set MASTER_PORT to a free one");
}

TEST(RendezvousTest, SaysThatAnotherProgramListensThere) {
  const Socket listener = listen_on(0);
  const int port = port_of(listener);
  std::future<Mesh> second = meet_soon({1, 2, loopback(port)});
  std::optional<Socket> guest;
  while (!(guest = accept_waiting(listener)).has_value()) {
  }
  const std::string greeting = "SSH-2.0-OpenSSH_9.2p1";
  send_all(*guest, std::as_bytes(std::span(greeting)));
  const Error error = error_of([&] { second.get(); });
  EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
  EXPECT_EQ(error.message(), "another program listens at " + at(port) +
                                 ", expected the first rank: set MASTER_PORT to a free port");
}

TEST(RendezvousTest, EndsWhenARankThatCameGoesAgain) {
  const int port = free_port();
  std::future<Mesh> first = meet_soon({0, 3, loopback(port)});
  {
    Socket second = connect_when_there(loopback(port), std::chrono::steady_clock::now() + kLong);
    send_all(second, bytes_of(Hello{.rank = 1, .n_ranks = 3}));
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
  const Error error = error_of([&] { first.get(); });
  EXPECT_EQ(error.kind(), ErrorKind::kCommFault);
  EXPECT_EQ(error.message(), "rank 1 has gone");
}

}  // namespace
}  // namespace vernier::comm
