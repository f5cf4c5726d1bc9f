#include "base/phases.h"

namespace vernier {

void PhaseTimes::add(const std::string& phase, double seconds) {
  for (auto& [name, total] : phases_) {
    if (name == phase) {
      total += seconds;
      return;
    }
  }
  phases_.emplace_back(phase, seconds);
}

}  // namespace vernier
