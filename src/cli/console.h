// The terminal: the only place that prints. Results go to standard output; progress and notes go to
// standard error, as a bar that redraws on a terminal and as plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>

#include "base/progress.h"

namespace vernier::cli {

class Console : public ProgressSink {
 public:
  // `is_silent`: of several ranks one prints.
  explicit Console(bool is_silent = false);
  ~Console() override;

  // How wide a table may be: the terminal's width, at least 80. Unlimited where standard output is
  // no terminal, so that files and pipes hold full names.
  int table_width() const;

  // A line (or several) of results.
  void print(std::string_view text);
  // Results without a line end, shown at once: generated text.
  void stream(std::string_view text);

  void update(const ProgressState& state) override;
  void note(const std::string& sentence) override;
  // Removes a bar that is being drawn.
  void clear_progress();

 private:
  using Clock = std::chrono::steady_clock;

  bool is_silent_;
  bool is_terminal_;
  bool bar_is_shown_ = false;
  std::string run_label_;  // the part of the label before a comma names the run that is timed
  Clock::time_point run_start_;
  Clock::time_point last_shown_;
};

}  // namespace vernier::cli
