#include "report/progress_line.h"

#include <fmt/format.h>

#include <algorithm>

#include "report/units.h"

namespace vernier::report {
namespace {

std::string drawn_bar(double fraction, int width) {
  const int filled = static_cast<int>(fraction * width);
  return fmt::format("[{}{}]", std::string(filled, '#'), std::string(width - filled, '.'));
}

}  // namespace

std::string format_progress(const ProgressState& state, double elapsed_seconds, bool bar,
                            int width) {
  const double fraction =
      state.total > 0 ? std::clamp(static_cast<double>(state.done) / state.total, 0.0, 1.0) : 0;
  std::string tail = fmt::format("{:3.0f} %", 100 * fraction);
  if (elapsed_seconds > 0 && state.done > 0) {
    const double rate = static_cast<double>(state.done) / elapsed_seconds;
    const double left = static_cast<double>(state.total - state.done) / rate;
    tail += fmt::format("  {}  {} left", format_rate(rate, state.rate_unit), format_duration(left));
  }
  if (!bar) return fmt::format("{}: {}", state.label, tail);
  const int room = width - static_cast<int>(state.label.size() + tail.size()) - 6;
  if (room < 8) return fmt::format("{}  {}", state.label, tail).substr(0, width);
  return fmt::format("{}  {}  {}", state.label, drawn_bar(fraction, std::min(room, 24)), tail);
}

}  // namespace vernier::report
