#include "comm/ending_hub.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace vernier::comm {
namespace {

class EndingHub {
 public:
  EndingHub(std::span<const Socket> ranks, const Complain& complain,
            std::chrono::milliseconds failing_together)
      : ranks_(ranks),
        complain_(complain),
        failing_together_(failing_together),
        states_(ranks.size(), State::kRuns) {}

  void run() {
    while (!is_over_) {
      for (const int rank : wait()) {
        if (!is_over_) hear(rank);
      }
      if (!is_over_ && has_waited_enough()) choose_speaker();
    }
  }

 private:
  enum class State { kRuns, kEndedWell, kFailed };

  // Ranks that have something to say, or have gone.
  std::vector<int> wait() const {
    std::vector<pollfd> polled;
    for (const Socket& rank : ranks_) polled.push_back({rank.fd(), POLLIN, 0});
    ::poll(polled.data(), polled.size(), poll_timeout_ms(speaker_due_));
    std::vector<int> ready;
    for (size_t rank = 0; rank < polled.size(); ++rank) {
      if (polled[rank].revents != 0) ready.push_back(static_cast<int>(rank));
    }
    return ready;
  }

  void hear(int rank) {
    const std::optional<Notice> notice = receive_notice(ranks_[rank]);
    if (!notice.has_value()) return lose(rank);
    switch (notice->kind) {
      case Notice::Kind::kEndedWell:
        states_[rank] = State::kEndedWell;
        if (n_in(State::kEndedWell) == std::ssize(ranks_)) tell_all({Notice::Kind::kLeave});
        break;
      case Notice::Kind::kFailed:
        fail(rank);
        break;
      default:
        tell_all({Notice::Kind::kEnd, notice->status});
    }
  }

  void lose(int rank) {
    complain_(sentence_of_loss(rank));
    tell_all({Notice::Kind::kEnd, exit_status(ErrorKind::kCommFault)});
  }

  void fail(int rank) {
    if (has_speaker_) return send_notice(ranks_[rank], {Notice::Kind::kBeSilent});
    if (n_in(State::kFailed) == 0) {
      speaker_due_ = std::chrono::steady_clock::now() + failing_together_;
    }
    states_[rank] = State::kFailed;
  }

  // Until it is known who fails, or for so long; others may compute for hours.
  bool has_waited_enough() const {
    if (has_speaker_ || n_in(State::kFailed) == 0) return false;
    return n_in(State::kRuns) == 0 || std::chrono::steady_clock::now() >= speaker_due_;
  }

  // The first of those that failed.
  void choose_speaker() {
    for (size_t rank = 0; rank < ranks_.size(); ++rank) {
      if (states_[rank] != State::kFailed) continue;
      send_notice(ranks_[rank], {has_speaker_ ? Notice::Kind::kBeSilent : Notice::Kind::kSpeak});
      has_speaker_ = true;
    }
    speaker_due_ = kNever;
  }

  // This process is the first rank's, which ends when it is told to: it is told last.
  void tell_all(Notice notice) {
    for (size_t rank = ranks_.size(); rank-- > 0;) send_notice(ranks_[rank], notice);
    is_over_ = true;
  }

  int64_t n_in(State state) const { return std::ranges::count(states_, state); }

  std::span<const Socket> ranks_;
  const Complain& complain_;
  std::chrono::milliseconds failing_together_;
  std::vector<State> states_;
  Deadline speaker_due_ = kNever;
  bool has_speaker_ = false;
  bool is_over_ = false;
};

}  // namespace

// Whoever cannot be told has gone, which whoever listens to it hears.
void send_notice(const Socket& to, Notice notice) {
  try {
    send_all(to, bytes_of(notice));
  } catch (const Error&) {
  }
}

std::optional<Notice> receive_notice(const Socket& from) {
  try {
    Notice notice;
    receive_all(from, writable_bytes_of(notice));
    return notice;
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::string sentence_of_loss(int rank) {
  return fmt::format("rank {} has gone: it was killed, or its machine or network failed", rank);
}

void run_ending_hub(std::span<const Socket> ranks, const Complain& complain,
                    std::chrono::milliseconds failing_together) {
  EndingHub(ranks, complain, failing_together).run();
}

}  // namespace vernier::comm
