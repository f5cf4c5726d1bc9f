#include "comm/rendezvous.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <sstream>

#include "base/check.h"
#include "base/error.h"
#include "comm/reception.h"

namespace vernier::comm {
namespace {

// Rank 0's answer to a rank that wants to join, followed by a text: where all ranks listen, a line
// each, or why this one is refused.
struct Answer {
  Magic magic = kMagic;
  uint32_t is_welcome = 0;
  uint32_t n_bytes = 0;
};

void answer(const Socket& socket, bool is_welcome, const std::string& text, Deadline deadline) {
  const Answer answer{.is_welcome = is_welcome ? 1u : 0u,
                      .n_bytes = static_cast<uint32_t>(text.size())};
  send_all(socket, bytes_of(answer), deadline);
  send_all(socket, std::as_bytes(std::span(text)), deadline);
}

std::string name_of(int rank) { return fmt::format("rank {}", rank); }

class Meeting {
 public:
  Meeting(const Seat& seat, std::chrono::milliseconds patience)
      : seat_(seat),
        patience_(patience),
        deadline_(std::chrono::steady_clock::now() + patience),
        reception_(seat.rank == 0 ? seat.first.port : 0) {
    mesh_.rank = seat.rank;
    mesh_.talks.resize(static_cast<size_t>(seat.n_ranks));
    mesh_.controls.resize(static_cast<size_t>(seat.n_ranks));
  }

  Mesh run() {
    if (seat_.rank == 0) {
      gather_all();
    } else {
      join();
    }
    connect_to_lower();
    accept_higher();
    return std::move(mesh_);
  }

 private:
  // Rank 0: until all have come, then tells all of all.
  void gather_all() {
    listening_.resize(static_cast<size_t>(seat_.n_ranks));
    for (int n_here = 1; n_here < seat_.n_ranks;) {
      std::optional<Reception::Guest> guest = reception_.next(mesh_.controls, deadline_);
      if (!guest.has_value()) throw_missing(n_here);
      n_here += admit(std::move(*guest));
    }
    std::string table;
    for (const Address& address : listening_) {
      table += fmt::format("{} {}\n", address.host.empty() ? "-" : address.host, address.port);
    }
    give_time();
    for (int rank = 1; rank < seat_.n_ranks; ++rank) {
      answer(mesh_.controls[rank], true, table, deadline_);
    }
  }

  // Whether it is one of this job's ranks, and the first to say so.
  bool admit(Reception::Guest guest) {
    const std::string refusal = why_refused(guest.hello);
    if (!refusal.empty()) {
      refuse(guest.socket, refusal);
      return false;
    }
    guest.socket.name_peer(name_of(guest.hello.rank));
    listening_[guest.hello.rank] = {peer_host(guest.socket), guest.hello.port};
    mesh_.controls[guest.hello.rank] = std::move(guest.socket);
    return true;
  }

  // Whoever is refused may have gone already.
  void refuse(const Socket& guest, const std::string& refusal) const {
    try {
      answer(guest, false, refusal, deadline_);
    } catch (const Error&) {
    }
  }

  std::string why_refused(const Hello& hello) const {
    if (hello.n_ranks != seat_.n_ranks) {
      return fmt::format("the job there has {} ranks, and this process is one of {}", seat_.n_ranks,
                         hello.n_ranks);
    }
    if (hello.purpose != Hello::Purpose::kJoin || hello.rank < 1 || hello.rank >= seat_.n_ranks ||
        mesh_.controls[hello.rank].is_open()) {
      return "another process has come as that rank before";
    }
    return "";
  }

  [[noreturn]] void throw_missing(int n_here) const {
    std::vector<int> missing;
    for (int rank = 1; rank < seat_.n_ranks; ++rank) {
      if (!mesh_.controls[rank].is_open()) missing.push_back(rank);
    }
    throw Error(
        ErrorKind::kCommFault,
        fmt::format("{} of {} ranks came to {} within {} s, expected all: missing {}", n_here,
                    seat_.n_ranks, to_string(seat_.first), seconds(), fmt::join(missing, ", ")));
  }

  // Another rank: goes to the first, and waits until all have come there.
  void join() {
    Socket first = with_context(
        fmt::format("waiting {} s for the first of {} ranks", seconds(), seat_.n_ranks),
        [&] { return connect_when_there(seat_.first, deadline_); });
    first.name_peer(fmt::format("rank 0 at {}", to_string(seat_.first)));
    send_all(first, bytes_of(hello(Hello::Purpose::kJoin)), deadline_);
    // The first may have come late, and then waits as long for others.
    give_time();
    const std::string table = receive_answer(first);
    first.name_peer(name_of(0));
    read_table(table, peer_host(first));
    mesh_.controls[0] = std::move(first);
  }

  std::string receive_answer(const Socket& first) const {
    Answer answer;
    receive_all(first, writable_bytes_of(answer), deadline_);
    if (answer.magic != kMagic) {
      throw Error(ErrorKind::kEnvironment,
                  fmt::format("another program listens at {}, expected the first rank: set "
                              "MASTER_PORT to a free port",
                              to_string(seat_.first)));
    }
    std::string text(answer.n_bytes, '\0');
    receive_all(first, std::as_writable_bytes(std::span(text)), deadline_);
    if (answer.is_welcome != 0) return text;
    throw Error(ErrorKind::kEnvironment, fmt::format("rank {} was not let in at {}: {}", seat_.rank,
                                                     to_string(seat_.first), text));
  }

  // Neighbours of the first rank come to it from an address that is theirs alone: they are where it
  // is.
  void read_table(const std::string& table, const std::string& first_host) {
    std::istringstream lines(table);
    for (Address address; lines >> address.host >> address.port;) {
      if (is_loopback(address.host)) address.host = first_host;
      listening_.push_back(address);
    }
    if (std::ssize(listening_) != seat_.n_ranks) {
      throw Error(ErrorKind::kCommFault,
                  fmt::format("rank 0 told of {} ranks, expected {}: is it this program?",
                              listening_.size(), seat_.n_ranks));
    }
    listening_[0] = {first_host, seat_.first.port};
  }

  // A pair's higher rank connects. None has to wait for the other: what listens takes connections
  // before anybody asks for them.
  void connect_to_lower() {
    for (int rank = 0; rank < seat_.rank; ++rank) {
      Socket socket = with_context(fmt::format("connecting rank {} to rank {}", seat_.rank, rank),
                                   [&] { return connect_to(listening_[rank], deadline_); });
      socket.name_peer(name_of(rank));
      send_all(socket, bytes_of(hello(Hello::Purpose::kTalk)), deadline_);
      mesh_.talks[rank] = std::move(socket);
    }
  }

  void accept_higher() {
    for (int n_left = seat_.n_ranks - 1 - seat_.rank; n_left > 0;) {
      std::optional<Reception::Guest> guest = reception_.next(mesh_.controls, deadline_);
      if (!guest.has_value()) {
        throw Error(ErrorKind::kCommFault,
                    fmt::format("{} ranks did not connect to rank {} within {} s", n_left,
                                seat_.rank, seconds()));
      }
      if (!is_expected(guest->hello)) {
        refuse(guest->socket, "all ranks have come");
        continue;
      }
      guest->socket.name_peer(name_of(guest->hello.rank));
      mesh_.talks[guest->hello.rank] = std::move(guest->socket);
      --n_left;
    }
  }

  bool is_expected(const Hello& hello) const {
    return hello.purpose == Hello::Purpose::kTalk && hello.n_ranks == seat_.n_ranks &&
           hello.rank > seat_.rank && hello.rank < seat_.n_ranks &&
           !mesh_.talks[hello.rank].is_open();
  }

  Hello hello(Hello::Purpose purpose) const {
    return {.purpose = purpose,
            .rank = seat_.rank,
            .n_ranks = seat_.n_ranks,
            .port = reception_.port()};
  }

  void give_time() { deadline_ = std::chrono::steady_clock::now() + patience_; }
  double seconds() const { return std::chrono::duration<double>(patience_).count(); }

  const Seat& seat_;
  std::chrono::milliseconds patience_;
  Deadline deadline_;
  Reception reception_;
  std::vector<Address> listening_;  // by rank
  Mesh mesh_;
};

}  // namespace

Mesh meet(const Seat& seat, std::chrono::milliseconds patience) {
  VERNIER_CHECK(seat.rank >= 0 && seat.rank < seat.n_ranks);
  return Meeting(seat, patience).run();
}

}  // namespace vernier::comm
