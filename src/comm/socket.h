// TCP between processes: sockets that close themselves, and calls that take all bytes or throw. Who
// is at the other end is named in every sentence: CommFault "rank 3 has gone".
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>

namespace vernier::comm {

using Deadline = std::chrono::steady_clock::time_point;
constexpr Deadline kNever = Deadline::max();

struct Address {
  std::string host;  // a name or a number
  int port = 0;
};
// "node1:29500", "[fe80::1]:29500"
std::string to_string(const Address& address);
// Of a number: whether it means nothing on another machine.
bool is_loopback(const std::string& host);

class Socket {
 public:
  Socket() = default;
  Socket(int fd, std::string peer) : fd_(fd), peer_(std::move(peer)) {}
  ~Socket();
  Socket(Socket&& other) noexcept;
  Socket& operator=(Socket&& other) noexcept;

  bool is_open() const { return fd_ >= 0; }
  int fd() const { return fd_; }
  // Who is at the other end, once that is known: "rank 3".
  const std::string& peer() const { return peer_; }
  void name_peer(std::string peer) { peer_ = std::move(peer); }

 private:
  int fd_ = -1;
  std::string peer_;
};

// On all of this machine's addresses: names of hosts often mean another address on the host itself.
// Port 0: any that is free. Throws Environment where the port is in use.
Socket listen_on(int port);
int port_of(const Socket& listener);
// A connection that waits at the listener, if any does. Throws Environment where the process may
// open no more.
std::optional<Socket> accept_waiting(const Socket& listener);

// Tries again until somebody listens there; throws CommFault at the deadline.
Socket connect_when_there(const Address& address, Deadline deadline);
// Throws CommFault where nobody listens there.
Socket connect_to(const Address& address, Deadline deadline);
// The other end's address, as a number.
std::string peer_host(const Socket& socket);

// Two ends of one connection within this process.
std::pair<Socket, Socket> connected_sockets();

// Throws CommFault where the other end is closed, or the deadline passes.
void send_all(const Socket& socket, std::span<const std::byte> bytes, Deadline deadline = kNever);
void receive_all(const Socket& socket, std::span<std::byte> bytes, Deadline deadline = kNever);

// Ends the connection for whoever waits at either end.
void shut_down(const Socket& socket);

// What poll() takes for the time that is left, up to a limit, in milliseconds; -1: for ever.
int poll_timeout_ms(Deadline deadline);

// The sentence for a connection on which a call failed with `error`, or that was closed (0).
[[noreturn]] void throw_gone(const Socket& socket, int error);

// A value as it goes over the wire: between machines of one byte order, as all ours are.
template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}
template <class T>
std::span<std::byte> writable_bytes_of(T& value) {
  return std::as_writable_bytes(std::span(&value, 1));
}

}  // namespace vernier::comm
