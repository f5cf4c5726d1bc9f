#include "comm/transfer.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/error.h"

namespace vernier::comm {
namespace {

template <class Message>
bool is_done(const Message& message) {
  return message.n_done == sizeof(Envelope) + message.bytes.size();
}

// What is left of an envelope and its bytes, for one call.
class Rest {
 public:
  template <class Byte>
  Rest(const Envelope& envelope, std::span<Byte> bytes, size_t n_done) {
    const size_t n_of_envelope = std::min(n_done, sizeof(Envelope));
    const auto whole = bytes_of(envelope);
    parts_[0] = part(whole.subspan(n_of_envelope));
    parts_[1] = part(bytes.subspan(n_done - n_of_envelope));
    header_.msg_iov = parts_.data();
    header_.msg_iovlen = parts_.size();
  }
  Rest(const Rest&) = delete;
  Rest& operator=(const Rest&) = delete;

  msghdr* get() { return &header_; }

 private:
  static iovec part(std::span<const std::byte> bytes) {
    return {const_cast<std::byte*>(bytes.data()), bytes.size()};
  }

  std::array<iovec, 2> parts_;
  msghdr header_ = {};
};

// Of a call that moved n bytes: as many, none where it has to wait. Throws where the rank has gone.
size_t n_moved(ssize_t n, const Socket& socket) {
  if (n >= 0) return static_cast<size_t>(n);
  if (errno == EAGAIN || errno == EINTR) return 0;
  throw_gone(socket, errno);
}

void check_envelope(const Envelope& found, const Envelope& expected, const Socket& from) {
  if (found == expected) return;
  throw Error(ErrorKind::kCommFault,
              fmt::format("{} sent {} bytes (message {} of group {:x}), expected {} (message {} of "
                          "group {:x}): do all ranks have the same program, files and flags?",
                          from.peer(), found.n_bytes, found.number, found.group, expected.n_bytes,
                          expected.number, expected.group));
}

}  // namespace

void Transfer::send(const Socket& to, uint64_t group, uint64_t number,
                    std::span<const std::byte> bytes) {
  outgoing_.push_back({&to, {group, number, bytes.size()}, bytes});
}

void Transfer::receive(const Socket& from, uint64_t group, uint64_t number,
                       std::span<std::byte> bytes) {
  incoming_.push_back({&from, {group, number, bytes.size()}, bytes});
}

// All are tried before any is waited for, since short messages rarely have to.
void Transfer::run() {
  do {
    for (Outgoing& outgoing : outgoing_) advance(outgoing);
    for (Incoming& incoming : incoming_) advance(incoming);
  } while (wait());
}

void Transfer::advance(Outgoing& outgoing) {
  if (is_done(outgoing)) return;
  Rest rest(outgoing.envelope, outgoing.bytes, outgoing.n_done);
  outgoing.n_done += n_moved(
      ::sendmsg(outgoing.socket->fd(), rest.get(), MSG_NOSIGNAL | MSG_DONTWAIT), *outgoing.socket);
}

// Bytes that follow a wrong envelope may be read with it: nobody looks at them.
void Transfer::advance(Incoming& incoming) {
  if (is_done(incoming)) return;
  Rest rest(incoming.envelope, incoming.bytes, incoming.n_done);
  const ssize_t n = ::recvmsg(incoming.socket->fd(), rest.get(), MSG_DONTWAIT);
  if (n == 0) throw_gone(*incoming.socket, 0);
  const size_t n_before = incoming.n_done;
  incoming.n_done += n_moved(n, *incoming.socket);
  if (n_before < sizeof(Envelope) && incoming.n_done >= sizeof(Envelope)) {
    check_envelope(incoming.envelope, incoming.expected, *incoming.socket);
  }
}

bool Transfer::wait() const {
  std::vector<pollfd> polled;
  for (const Outgoing& outgoing : outgoing_) {
    if (!is_done(outgoing)) polled.push_back({outgoing.socket->fd(), POLLOUT, 0});
  }
  for (const Incoming& incoming : incoming_) {
    if (!is_done(incoming)) polled.push_back({incoming.socket->fd(), POLLIN, 0});
  }
  if (polled.empty()) return false;
  ::poll(polled.data(), polled.size(), poll_timeout_ms(kNever));
  return true;
}

}  // namespace vernier::comm
