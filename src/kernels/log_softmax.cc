// What evaluation asks of a row of logits: checks and dispatch.
#include "kernels/log_softmax.h"

#include "base/check.h"
#include "kernels/cpu.h"

namespace vernier::kernels {

double log_sum_exp(std::span<const float> logits) {
  VERNIER_CHECK(!logits.empty());
  return cpu::log_sum_exp(logits);
}

double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits) {
  VERNIER_CHECK(!p_logits.empty() && p_logits.size() == q_logits.size());
  return cpu::kl_divergence(p_logits, q_logits);
}

int64_t argmax(std::span<const float> values) {
  VERNIER_CHECK(!values.empty());
  return cpu::argmax(values);
}

}  // namespace vernier::kernels
