// Where the time of a job goes: seconds by phase, added up over layers.
#pragma once

#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace vernier {

class PhaseTimes {
 public:
  void add(const std::string& phase, double seconds);
  // In the order in which phases first occurred.
  const std::vector<std::pair<std::string, double>>& phases() const { return phases_; }

 private:
  std::vector<std::pair<std::string, double>> phases_;
};

// Adds the seconds of its own life to a phase; `times` may be null.
class PhaseTimer {
 public:
  PhaseTimer(PhaseTimes* times, const char* phase) : times_(times), phase_(phase) {}
  ~PhaseTimer() {
    if (times_ != nullptr) {
      times_->add(phase_, std::chrono::duration<double>(Clock::now() - start_).count());
    }
  }
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  PhaseTimes* times_;
  const char* phase_;
  Clock::time_point start_ = Clock::now();
};

}  // namespace vernier
