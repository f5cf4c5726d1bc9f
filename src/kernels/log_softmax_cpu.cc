// What evaluation asks of a row of logits, on the host, on the calling thread: evaluation has rows
// enough to keep every core busy.
#include <algorithm>
#include <cmath>

#include "kernels/cpu.h"
#include "kernels/vec.h"

namespace vernier::kernels::cpu {
namespace {

int64_t size_of(std::span<const float> row) { return static_cast<int64_t>(row.size()); }

float max_of(std::span<const float> row) { return vec::max(row.data(), size_of(row)); }

}  // namespace

double log_sum_exp(std::span<const float> logits) {
  const float max = max_of(logits);
  return max + std::log(vec::sum_exp(logits.data(), max, size_of(logits)));
}

// With P, Q the sums of exponentials relative to the rows' maxima,
//   KL = sum_v e_v ((p_v - max_p) - (q_v - max_q)) / P - (log P - log Q).
// The differences of logits are taken in double before anything is summed: two near rows lose no
// digits. The weights are divided by the sum of the very same exponentials, so that an error common
// to them cancels.
double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits) {
  const float p_max = max_of(p_logits);
  const float q_max = max_of(q_logits);
  const int64_t n = size_of(p_logits);
  const double q_sum = vec::sum_exp(q_logits.data(), q_max, n);
  const vec::ExpSums p =
      vec::sum_exp_times_difference(p_logits.data(), p_max, q_logits.data(), q_max, n);
  return p.weighted / p.sum - (std::log(p.sum) - std::log(q_sum));
}

int64_t argmax(std::span<const float> values) {
  const float max = max_of(values);
  const auto first = std::find(values.begin(), values.end(), max);
  return first == values.end() ? 0 : first - values.begin();
}

}  // namespace vernier::kernels::cpu
