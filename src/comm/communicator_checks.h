// For tests only: what every communicator promises, as functions that all of its ranks call. Each
// backend's test runs the whole table.
#pragma once

#include <ostream>
#include <span>

#include "comm/communicator.h"

namespace vernier::comm {

struct CommunicatorCheck {
  const char* name;
  // Matrices lie on `device`, null for the host.
  void (*run)(const Communicator& group, Device* device);
};

inline std::ostream& operator<<(std::ostream& out, const CommunicatorCheck& check) {
  return out << check.name;
}

std::span<const CommunicatorCheck> communicator_checks();

}  // namespace vernier::comm
