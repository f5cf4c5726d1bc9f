// How ranks over TCP end together: each tells the first rank how it came to its end, and is told
// what to do. This is the first rank's side: one thread that hears all, itself included.
#pragma once

#include <span>
#include <string>

#include "comm/socket.h"
#include "comm/world.h"

namespace vernier::comm {

struct Notice {
  enum class Kind : int32_t {
    // To the hub.
    kEndedWell,
    kFailed,  // what shall I do?
    kEndAll,  // with this status
    // From it.
    kLeave,     // all have ended well
    kSpeak,     // say why you failed, then end all
    kBeSilent,  // another rank speaks, and ends all
    kEnd,       // at once, with this status
  };
  Kind kind = Kind::kEndedWell;
  int32_t status = 0;
};

void send_notice(const Socket& to, Notice notice);
// Waits for one; nothing where the connection is closed.
std::optional<Notice> receive_notice(const Socket& from);

// What whoever finds a rank gone complains of.
std::string sentence_of_loss(int rank);

// Ranks that fail alike, over a bad flag say, do so within this of each other.
constexpr std::chrono::milliseconds kFailingTogether = std::chrono::seconds(2);

// Returns when all have ended well, or have been told to end. `ranks`: a connection with each, in
// order. A rank that goes without a word ends all, and `complain` says so.
void run_ending_hub(std::span<const Socket> ranks, const Complain& complain,
                    std::chrono::milliseconds failing_together = kFailingTogether);

}  // namespace vernier::comm
