// A mean over positions whose error is judged by windows: positions of one window depend on each
// other, windows hardly do.
#pragma once

#include <span>

namespace vernier::eval {

// A mean and the standard error of that mean.
struct Estimate {
  double mean = 0;
  double standard_error = 0;
};

// A value summed over some positions of one window, and how many.
struct WindowSum {
  double total = 0;
  double n_positions = 0;
};

// The mean over all positions of all windows, m = sum of totals / N with N = sum of n_positions,
// and the standard error of that ratio over W windows (linearized: Cochran, Sampling Techniques,
// chapter 6):
//   sqrt(W / (W - 1) * sum over windows of (total - m * n_positions)^2) / N
// which for windows of one length is the usual standard error of the mean of their means. 0 for one
// window, which tells nothing of its error; NaN without positions.
Estimate estimate_mean(std::span<const WindowSum> windows);

}  // namespace vernier::eval
