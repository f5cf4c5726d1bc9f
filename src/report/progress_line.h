// The text of a progress line: label, bar, rate and time left.
#pragma once

#include <string>

#include "base/progress.h"

namespace vernier::report {

// `elapsed_seconds` since done was 0. With `bar`, one line of at most `width` for redrawing in
// place; without, a plain line for logs.
std::string format_progress(const ProgressState& state, double elapsed_seconds, bool bar,
                            int width = 80);

}  // namespace vernier::report
