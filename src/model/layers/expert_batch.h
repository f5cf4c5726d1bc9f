// Routed experts run in batches of neighbours, so that the activations of a batch are bounded.
#pragma once

#include <cstdint>
#include <vector>

namespace vernier::model {

// The end of the batch of experts that starts at `first`.
inline size_t batch_end(const std::vector<int64_t>& begin, size_t first, int64_t max_pairs) {
  size_t last = first + 1;
  while (last + 1 < begin.size() && begin[last + 1] - begin[first] <= max_pairs) ++last;
  return last;
}

// From the batch's first pair, where its experts' pairs begin.
inline std::vector<int64_t> begin_within(const std::vector<int64_t>& begin, size_t first,
                                         size_t last) {
  std::vector<int64_t> within;
  for (size_t expert = first; expert <= last; ++expert) {
    within.push_back(begin[expert] - begin[first]);
  }
  return within;
}

}  // namespace vernier::model
