// Routed experts run in batches of neighbours, so that the activations of a batch are bounded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace vernier::model {

// Experts [first, last), which own the pairs from first_pair on.
struct ExpertBatch {
  size_t first = 0;
  size_t last = 0;
  int64_t first_pair = 0;
  int64_t n_pairs = 0;
  // From the batch's first pair, where its experts' pairs begin, and the end.
  std::vector<int64_t> begin = {};
};

// All batches with pairs, in order; expert e owns pairs [begin[e], begin[e + 1]). A batch has at
// most max_pairs, unless one expert alone has more.
inline std::vector<ExpertBatch> expert_batches(const std::vector<int64_t>& begin,
                                               int64_t max_pairs) {
  std::vector<ExpertBatch> batches;
  for (size_t first = 0; first + 1 < begin.size();) {
    size_t last = first + 1;
    while (last + 1 < begin.size() && begin[last + 1] - begin[first] <= max_pairs) ++last;
    ExpertBatch batch{first, last, begin[first], begin[last] - begin[first]};
    for (size_t expert = first; expert <= last; ++expert) {
      batch.begin.push_back(begin[expert] - begin[first]);
    }
    if (batch.n_pairs > 0) batches.push_back(std::move(batch));
    first = last;
  }
  return batches;
}

}  // namespace vernier::model
