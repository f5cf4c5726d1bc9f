// What evaluation asks of a row of logits, in double.
#include <algorithm>
#include <cmath>

#include "kernels/reference.h"

namespace vernier::kernels::ref {

double log_sum_exp(std::span<const float> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  return max + std::log(sum);
}

double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits) {
  const double p_norm = ref::log_sum_exp(p_logits);
  const double q_norm = ref::log_sum_exp(q_logits);
  double sum = 0;
  for (size_t v = 0; v < p_logits.size(); ++v) {
    const double log_p = p_logits[v] - p_norm;
    const double log_q = q_logits[v] - q_norm;
    if (std::exp(log_p) > 0) sum += std::exp(log_p) * (log_p - log_q);
  }
  return sum;
}

int64_t argmax(std::span<const float> values) {
  return std::max_element(values.begin(), values.end()) - values.begin();
}

}  // namespace vernier::kernels::ref
