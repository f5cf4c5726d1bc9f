#include "comm/reception.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace vernier::comm {
namespace {

// Whether what has come so far begins as a hello does.
bool may_be_hello(const Hello& hello, size_t n_received) {
  return std::memcmp(&hello, kMagic.data(), std::min(n_received, kMagic.size())) == 0;
}

}  // namespace

std::optional<Reception::Guest> Reception::next(std::span<const Socket> needed, Deadline deadline) {
  while (true) {
    while (std::optional<Socket> socket = accept_waiting(listener_)) {
      arrivals_.push_back({.socket = std::move(*socket), .hello = {}});
    }
    listen_to_arrivals();
    if (std::optional<Guest> guest = take_complete()) return guest;
    if (std::chrono::steady_clock::now() >= deadline) return std::nullopt;
    wait(needed, deadline);
  }
}

// Arrivals are heard without waiting for any: one that says nothing holds up nobody.
void Reception::listen_to_arrivals() {
  for (Arrival& arrival : arrivals_) {
    if (arrival.n_received == sizeof(Hello)) continue;
    const std::span<std::byte> rest = writable_bytes_of(arrival.hello).subspan(arrival.n_received);
    const ssize_t n = ::recv(arrival.socket.fd(), rest.data(), rest.size(), MSG_DONTWAIT);
    if (n > 0) arrival.n_received += static_cast<size_t>(n);
    const bool is_closed = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
    arrival.is_stranger = is_closed || !may_be_hello(arrival.hello, arrival.n_received);
  }
  std::erase_if(arrivals_, [](const Arrival& arrival) { return arrival.is_stranger; });
}

std::optional<Reception::Guest> Reception::take_complete() {
  const auto found = std::ranges::find(arrivals_, sizeof(Hello), &Arrival::n_received);
  if (found == arrivals_.end()) return std::nullopt;
  Guest guest = {std::move(found->socket), found->hello};
  arrivals_.erase(found);
  return guest;
}

void Reception::wait(std::span<const Socket> needed, Deadline deadline) const {
  std::vector<pollfd> polled = {{listener_.fd(), POLLIN, 0}};
  for (const Arrival& arrival : arrivals_) polled.push_back({arrival.socket.fd(), POLLIN, 0});
  const size_t n_own = polled.size();
  // poll() passes over what is not open, whose number is negative.
  for (const Socket& socket : needed) polled.push_back({socket.fd(), POLLRDHUP, 0});
  ::poll(polled.data(), polled.size(), poll_timeout_ms(deadline));
  for (size_t i = n_own; i < polled.size(); ++i) {
    if (polled[i].revents != 0) throw_gone(needed[i - n_own], 0);
  }
}

}  // namespace vernier::comm
