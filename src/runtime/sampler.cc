#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/random.h"
#include "kernels/log_softmax.h"

namespace vernier::runtime {
namespace {

// Ids from the most likely to the least; only the first `count` are in order.
std::vector<int32_t> best_first(std::span<const float> logits, size_t count) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + count, ids.end(), [&](int32_t left, int32_t right) {
    return logits[left] != logits[right] ? logits[left] > logits[right] : left < right;
  });
  ids.resize(count);
  return ids;
}

}  // namespace

int32_t sample(std::span<const float> logits, const SamplingOptions& options, uint32_t sequence,
               uint64_t step) {
  if (options.temperature <= 0) return static_cast<int32_t>(kernels::argmax(logits));
  const size_t n_kept = options.top_k > 0
                            ? std::min(logits.size(), static_cast<size_t>(options.top_k))
                            : logits.size();
  const std::vector<int32_t> ids = best_first(logits, n_kept);

  std::vector<double> weights(ids.size());
  double total = 0;
  for (size_t rank = 0; rank < ids.size(); ++rank) {
    const double gap = static_cast<double>(logits[ids[rank]]) - logits[ids[0]];
    weights[rank] = std::exp(gap / options.temperature);
    total += weights[rank];
  }
  // The nucleus: the shortest prefix whose share reaches top_p.
  double kept = 0;
  size_t n_nucleus = 0;
  while (n_nucleus < weights.size() && (n_nucleus == 0 || kept < options.top_p * total)) {
    kept += weights[n_nucleus++];
  }

  double target = random_uniform(options.seed, sequence, step) * kept;
  for (size_t rank = 0; rank + 1 < n_nucleus; ++rank) {
    target -= weights[rank];
    if (target < 0) return ids[rank];
  }
  return ids[n_nucleus - 1];
}

}  // namespace vernier::runtime
