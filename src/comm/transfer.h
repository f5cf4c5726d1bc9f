// Messages to and from several ranks at once, none of which waits for another: whatever their
// sizes, two ranks that send to each other both get done.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/socket.h"

namespace vernier::comm {

// What goes ahead of a message's bytes. Ranks that do not make the same calls notice by it, rather
// than take bytes for others.
struct Envelope {
  uint64_t group = 0;
  uint64_t number = 0;  // of this group's messages from this sender to this receiver
  uint64_t n_bytes = 0;

  bool operator==(const Envelope&) const = default;
};

class Transfer {
 public:
  // Sockets and bytes must outlive run().
  void send(const Socket& to, uint64_t group, uint64_t number, std::span<const std::byte> bytes);
  void receive(const Socket& from, uint64_t group, uint64_t number, std::span<std::byte> bytes);
  // Returns when all bytes that are sent can be forgotten, and all others have arrived. Throws
  // CommFault where a rank has gone, or sends another message than is expected.
  void run();

 private:
  struct Outgoing {
    const Socket* socket;
    Envelope envelope;
    std::span<const std::byte> bytes;
    size_t n_done = 0;  // with the envelope's
  };
  struct Incoming {
    const Socket* socket;
    Envelope expected;
    std::span<std::byte> bytes;
    Envelope envelope = {};
    size_t n_done = 0;
  };

  static void advance(Outgoing& outgoing);
  static void advance(Incoming& incoming);
  // Until one of those that are not done can go on; false where all are done.
  bool wait() const;

  std::vector<Outgoing> outgoing_;
  std::vector<Incoming> incoming_;
};

}  // namespace vernier::comm
