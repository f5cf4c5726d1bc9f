// The middle of repeated measurements.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace vernier {

// The upper of the two middles of an even number. REQUIRES: not empty.
inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace vernier
