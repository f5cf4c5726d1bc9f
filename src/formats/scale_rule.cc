// Grids of multipliers.
#include "formats/scale_rule.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"

namespace vernier::formats {
namespace {

// More candidates than this are a mistyped step, not a search.
constexpr float kMaxCandidates = 4096;

float n_intervals(const ScaleRule& rule) {
  const float n = std::ceil((rule.stop - rule.start) / rule.step);
  if (!(rule.start > 0 && rule.stop >= rule.start && rule.step > 0 && n < kMaxCandidates)) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("the multiplier grid has start {}, stop {} and step {}; expected "
                            "0 < start <= stop, step > 0 and at most {} multipliers",
                            rule.start, rule.stop, rule.step, kMaxCandidates));
  }
  return n;
}

}  // namespace

// The grid of torch.linspace, which counts from both ends: with the spacing (stop - start) /
// n_intervals (not `step`), the lower half is start + i * spacing and the upper half
// stop - (n_intervals - i) * spacing, each one fused multiply-add.
std::vector<float> multiplier_grid(const ScaleRule& rule) {
  const int n = static_cast<int>(n_intervals(rule));
  if (n == 0) return {rule.start};
  const float spacing = (rule.stop - rule.start) / static_cast<float>(n);
  std::vector<float> grid(static_cast<size_t>(n) + 1);
  for (int i = 0; i <= n; ++i) {
    const bool lower_half = i < (n + 1) / 2;
    grid[static_cast<size_t>(i)] = lower_half
                                       ? std::fma(spacing, static_cast<float>(i), rule.start)
                                       : std::fma(-spacing, static_cast<float>(n - i), rule.stop);
  }
  return grid;
}

}  // namespace vernier::formats
