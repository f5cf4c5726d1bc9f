#include "comm/socket.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>

#include "base/error.h"

namespace vernier::comm {
namespace {

using Clock = std::chrono::steady_clock;

// Pauses between tries grow, so that a thousand ranks do not storm one that is late. A try may take
// long: a firewall may swallow it without a word.
constexpr auto kFirstPause = std::chrono::milliseconds(10);
constexpr auto kLongestPause = std::chrono::milliseconds(500);
constexpr auto kLongestTry = std::chrono::seconds(10);

// A machine that vanishes says nothing: its connections are taken for closed after a minute.
constexpr int kSilentSeconds = 20;
constexpr int kProbes = 4;
constexpr int kProbeSeconds = 10;

void set_option(int fd, int level, int option, int value) {
  ::setsockopt(fd, level, option, &value, sizeof(value));
}

// Small messages go at once, and dead machines are noticed.
void set_up_connection(int fd) {
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, kSilentSeconds);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, kProbes);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, kProbeSeconds);
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 1000 * (kSilentSeconds + kProbes * kProbeSeconds));
}

// The addresses of a host, as a list that frees itself.
using Addresses = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

Addresses addresses_of(const Address& address, std::string& problem) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error =
      ::getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (error != 0) problem = ::gai_strerror(error);
  return {found, &::freeaddrinfo};
}

// Whether a socket is ready before the deadline.
bool wait_for(int fd, short events, Deadline deadline) {
  while (true) {
    pollfd polled = {fd, events, 0};
    const int n_ready = ::poll(&polled, 1, poll_timeout_ms(deadline));
    if (n_ready > 0) return true;
    if (Clock::now() >= deadline) return false;
  }
}

// A connection under way, its errno, or ETIMEDOUT.
int finish_connecting(int fd, const addrinfo& to, Deadline deadline) {
  if (::connect(fd, to.ai_addr, to.ai_addrlen) == 0) return 0;
  if (errno != EINPROGRESS) return errno;
  if (!wait_for(fd, POLLOUT, deadline)) return ETIMEDOUT;
  int error = 0;
  socklen_t size = sizeof(error);
  ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
  return error;
}

// One that tries a free port of its own machine may get that very port for its own end.
bool is_connected_to_itself(int fd) {
  sockaddr_storage own = {}, other = {};
  socklen_t own_size = sizeof(own), other_size = sizeof(other);
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &own_size);
  ::getpeername(fd, reinterpret_cast<sockaddr*>(&other), &other_size);
  return own_size == other_size && std::memcmp(&own, &other, own_size) == 0;
}

// A connection, or none and the reason.
Socket try_to_connect(const Address& address, Deadline deadline, std::string& problem) {
  const Addresses addresses = addresses_of(address, problem);
  for (const addrinfo* to = addresses.get(); to != nullptr; to = to->ai_next) {
    const int fd = ::socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int error = fd < 0 ? errno : finish_connecting(fd, *to, deadline);
    Socket socket(fd, to_string(address));
    if (error == 0 && is_connected_to_itself(fd)) error = ECONNREFUSED;
    if (error == 0) {
      set_up_connection(fd);
      return socket;
    }
    problem = std::strerror(error);
  }
  return {};
}

[[noreturn]] void throw_no_answer(const Address& address, const std::string& problem) {
  throw Error(ErrorKind::kCommFault,
              fmt::format("nobody answers at {} ({})", to_string(address), problem));
}

// Throws where none of a kind is to be had, but for a kind of address that this machine lacks.
Socket open_listener(int family) {
  Socket listener(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), "");
  if (!listener.is_open() && errno != EAFNOSUPPORT) {
    throw Error(ErrorKind::kEnvironment, fmt::format("no socket: {}", std::strerror(errno)));
  }
  return listener;
}

int bind_to_all(int fd, int family, int port) {
  if (family == AF_INET) {
    sockaddr_in any = {};
    any.sin_family = AF_INET;
    any.sin_port = htons(static_cast<uint16_t>(port));
    return ::bind(fd, reinterpret_cast<const sockaddr*>(&any), sizeof(any));
  }
  sockaddr_in6 any = {};
  any.sin6_family = AF_INET6;
  any.sin6_port = htons(static_cast<uint16_t>(port));
  return ::bind(fd, reinterpret_cast<const sockaddr*>(&any), sizeof(any));
}

[[noreturn]] void throw_late(const Socket& socket, const char* expected) {
  throw Error(ErrorKind::kCommFault, fmt::format("{} {} for too long", socket.peer(), expected));
}

}  // namespace

std::string to_string(const Address& address) {
  const bool is_v6 = address.host.find(':') != std::string::npos;
  return fmt::format("{}{}{}:{}", is_v6 ? "[" : "", address.host, is_v6 ? "]" : "", address.port);
}

bool is_loopback(const std::string& host) { return host.starts_with("127.") || host == "::1"; }

Socket::~Socket() {
  if (is_open()) ::close(fd_);
}

Socket::Socket(Socket&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), peer_(std::move(other.peer_)) {}

Socket& Socket::operator=(Socket&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(peer_, other.peer_);
  return *this;
}

// A socket of the newer kind of address serves both where the machine has it.
Socket listen_on(int port) {
  int family = AF_INET6;
  Socket listener = open_listener(family);
  if (!listener.is_open()) listener = open_listener(family = AF_INET);
  if (family == AF_INET6) set_option(listener.fd(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
  // Connections of a job that has just ended would keep the port for a minute.
  set_option(listener.fd(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (bind_to_all(listener.fd(), family, port) != 0 || ::listen(listener.fd(), SOMAXCONN) != 0) {
    throw Error(
        ErrorKind::kEnvironment,
        fmt::format("port {} of this machine, where the first rank listens, is not to be had "
                    "({}): set MASTER_PORT to a free one",
                    port, std::strerror(errno)));
  }
  return listener;
}

int port_of(const Socket& listener) {
  sockaddr_storage own = {};
  socklen_t size = sizeof(own);
  ::getsockname(listener.fd(), reinterpret_cast<sockaddr*>(&own), &size);
  const uint16_t port = own.ss_family == AF_INET6
                            ? reinterpret_cast<const sockaddr_in6&>(own).sin6_port
                            : reinterpret_cast<const sockaddr_in&>(own).sin_port;
  return ntohs(port);
}

std::optional<Socket> accept_waiting(const Socket& listener) {
  const int fd = ::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0 && (errno == EMFILE || errno == ENFILE)) {
    throw Error(ErrorKind::kEnvironment,
                fmt::format("no more connections can be taken ({}): raise ulimit -n",
                            std::strerror(errno)));
  }
  if (fd < 0) return std::nullopt;
  set_up_connection(fd);
  return Socket(fd, "a stranger");
}

Socket connect_when_there(const Address& address, Deadline deadline) {
  std::string problem;
  for (auto pause = kFirstPause;; pause = std::min(2 * pause, kLongestPause)) {
    const Deadline end_of_try = std::min(deadline, Clock::now() + kLongestTry);
    Socket socket = try_to_connect(address, end_of_try, problem);
    if (socket.is_open()) return socket;
    if (Clock::now() + pause > deadline) throw_no_answer(address, problem);
    std::this_thread::sleep_for(pause);
  }
}

Socket connect_to(const Address& address, Deadline deadline) {
  std::string problem;
  Socket socket = try_to_connect(address, deadline, problem);
  if (!socket.is_open()) throw_no_answer(address, problem);
  return socket;
}

std::string peer_host(const Socket& socket) {
  sockaddr_storage other = {};
  socklen_t size = sizeof(other);
  ::getpeername(socket.fd(), reinterpret_cast<sockaddr*>(&other), &size);
  char host[NI_MAXHOST] = "";
  ::getnameinfo(reinterpret_cast<const sockaddr*>(&other), size, host, sizeof(host), nullptr, 0,
                NI_NUMERICHOST);
  // An older address as the newer kind writes it, which machines without the latter do not know.
  const std::string name = host, prefix = "::ffff:";
  return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
}

std::pair<Socket, Socket> connected_sockets() {
  int ends[2] = {};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
    throw Error(ErrorKind::kEnvironment, fmt::format("no sockets: {}", std::strerror(errno)));
  }
  return {Socket(ends[0], ""), Socket(ends[1], "")};
}

void send_all(const Socket& socket, std::span<const std::byte> bytes, Deadline deadline) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(socket.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      bytes = bytes.subspan(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      if (!wait_for(socket.fd(), POLLOUT, deadline)) throw_late(socket, "has taken nothing");
    } else if (errno != EINTR) {
      throw_gone(socket, errno);
    }
  }
}

void receive_all(const Socket& socket, std::span<std::byte> bytes, Deadline deadline) {
  while (!bytes.empty()) {
    const ssize_t n = ::recv(socket.fd(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (n > 0) {
      bytes = bytes.subspan(static_cast<size_t>(n));
    } else if (n == 0) {
      throw_gone(socket, 0);
    } else if (errno == EAGAIN) {
      if (!wait_for(socket.fd(), POLLIN, deadline)) throw_late(socket, "has said nothing");
    } else if (errno != EINTR) {
      throw_gone(socket, errno);
    }
  }
}

void shut_down(const Socket& socket) { ::shutdown(socket.fd(), SHUT_RDWR); }

int poll_timeout_ms(Deadline deadline) {
  if (deadline == kNever) return -1;
  using std::chrono::milliseconds;
  const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, std::numeric_limits<int>::max()));
}

void throw_gone(const Socket& socket, int error) {
  const std::string reason = error == 0 ? "" : fmt::format(" ({})", std::strerror(error));
  throw Error(ErrorKind::kCommFault, fmt::format("{} has gone{}", socket.peer(), reason));
}

}  // namespace vernier::comm
