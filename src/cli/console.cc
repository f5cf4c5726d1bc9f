#include "cli/console.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <limits>

#include "report/progress_line.h"

namespace vernier::cli {
namespace {

constexpr std::chrono::milliseconds kBarInterval{100};
constexpr std::chrono::seconds kLineInterval{5};

void write(std::FILE* stream, std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stream);
  std::fflush(stream);
}

}  // namespace

Console::Console(bool is_silent)
    : is_silent_(is_silent), is_terminal_(::isatty(STDERR_FILENO) != 0) {}

Console::~Console() { clear_progress(); }

int Console::table_width() const {
  if (::isatty(STDOUT_FILENO) == 0) return std::numeric_limits<int>::max();
  winsize size{};
  ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
  return std::max(80, static_cast<int>(size.ws_col));
}

void Console::print(std::string_view text) {
  if (is_silent_) return;
  clear_progress();
  write(stdout, text);
  if (text.empty() || text.back() != '\n') write(stdout, "\n");
}

void Console::stream(std::string_view text) {
  if (is_silent_) return;
  clear_progress();
  write(stdout, text);
}

void Console::update(const ProgressState& state) {
  if (is_silent_) return;
  const Clock::time_point now = Clock::now();
  const std::string label = state.label.substr(0, state.label.find(','));
  if (label != run_label_) {
    run_label_ = label;
    run_start_ = now;
    last_shown_ = now;
  }
  const bool is_last = state.done >= state.total;
  const auto interval =
      is_terminal_ ? Clock::duration(kBarInterval) : Clock::duration(kLineInterval);
  if (!is_last && now - last_shown_ < interval) return;
  last_shown_ = now;
  const double elapsed = std::chrono::duration<double>(now - run_start_).count();
  const std::string line = report::format_progress(state, elapsed, is_terminal_);
  if (is_terminal_) {
    write(stderr, fmt::format("\r\033[K{}", line));
    bar_is_shown_ = true;
  } else {
    write(stderr, line + "\n");
  }
  if (is_last) {
    clear_progress();
    run_label_.clear();
  }
}

void Console::note(const std::string& sentence) {
  if (is_silent_) return;
  clear_progress();
  write(stderr, "note: " + sentence + "\n");
}

void Console::clear_progress() {
  if (bar_is_shown_) write(stderr, "\r\033[K");
  bar_is_shown_ = false;
}

}  // namespace vernier::cli
