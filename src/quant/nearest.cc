#include "quant/nearest.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

namespace vernier::quant {
namespace {

// Levenshtein distance, one row of the table at a time.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, substituted}));
    }
  }
  return row[b.size()];
}

}  // namespace

std::optional<std::string_view> nearest(std::string_view text,
                                        std::span<const std::string_view> names) {
  std::optional<std::string_view> best;
  size_t best_distance = 0;
  for (std::string_view name : names) {
    const size_t distance = edit_distance(text, name);
    if (distance * 2 > std::max(text.size(), name.size())) continue;
    if (best && distance >= best_distance) continue;
    best = name;
    best_distance = distance;
  }
  return best;
}

std::string did_you_mean(std::string_view text, std::span<const std::string_view> names) {
  const auto name = nearest(text, names);
  return name ? fmt::format("; did you mean \"{}\"?", *name) : "";
}

}  // namespace vernier::quant
