// Where connections arrive: whoever opens one says who it is, and those that do not are dropped.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "comm/socket.h"

namespace vernier::comm {

// The first bytes of all that ranks send to each other before they talk.
using Magic = std::array<char, 8>;
constexpr Magic kMagic = {'v', 'e', 'r', 'n', 'i', 'e', 'r', '1'};

// What a rank says first on every connection that it opens.
struct Hello {
  enum class Purpose : uint32_t {
    kJoin,  // at the first rank: to be let in, and later to say how one ends
    kTalk,  // at every rank: for what communicators send
  };
  Magic magic = kMagic;
  Purpose purpose = Purpose::kJoin;
  int32_t rank = 0;
  int32_t n_ranks = 0;
  int32_t port = 0;  // where this rank listens
};

class Reception {
 public:
  struct Guest {
    Socket socket;
    Hello hello;
  };

  explicit Reception(int port) : listener_(listen_on(port)) {}

  int port() const { return port_of(listener_); }
  // The next that says hello, or nothing at the deadline. Throws CommFault when one of `needed`,
  // without which waiting is in vain, closes first; those not open are passed over.
  std::optional<Guest> next(std::span<const Socket> needed, Deadline deadline);

 private:
  struct Arrival {
    Socket socket;
    Hello hello;
    size_t n_received = 0;  // bytes of the hello
    bool is_stranger = false;
  };

  void wait(std::span<const Socket> needed, Deadline deadline) const;
  void listen_to_arrivals();
  std::optional<Guest> take_complete();

  Socket listener_;
  std::vector<Arrival> arrivals_;
};

}  // namespace vernier::comm
