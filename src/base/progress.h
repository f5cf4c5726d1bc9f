// How library code tells of long work without printing: a sink that the command line implements.
#pragma once

#include <cstdint>
#include <string>

namespace vernier {

struct ProgressState {
  std::string label;  // "calibrating layer 12 of 52"
  int64_t done = 0;
  int64_t total = 0;      // same unit as done
  std::string rate_unit;  // "tokens": the rate is shown in tokens/s
};

class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  virtual void update(const ProgressState& state) = 0;
  // A line for the reader that is no error: something was skipped, substituted or continued.
  virtual void note(const std::string& sentence) = 0;
};

}  // namespace vernier
