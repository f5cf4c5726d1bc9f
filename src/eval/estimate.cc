#include "eval/estimate.h"

#include <cmath>

namespace vernier::eval {

Estimate estimate_mean(std::span<const WindowSum> windows) {
  double total = 0;
  double n_positions = 0;
  for (const WindowSum& window : windows) {
    total += window.total;
    n_positions += window.n_positions;
  }
  const double mean = total / n_positions;
  if (windows.size() < 2) return {mean, 0};

  double squares = 0;
  for (const WindowSum& window : windows) {
    const double residual = window.total - mean * window.n_positions;
    squares += residual * residual;
  }
  const auto n_windows = static_cast<double>(windows.size());
  return {mean, std::sqrt(n_windows / (n_windows - 1) * squares) / n_positions};
}

}  // namespace vernier::eval
