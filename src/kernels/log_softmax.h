// What evaluation asks of a row of logits.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/matrix.h"

namespace vernier::kernels {

// log(sum(exp(logits))), stable: FP32 exponentials, sums in double.
double log_sum_exp(std::span<const float> logits);

// sum_v p_v (log p_v - log q_v) in nats with p, q the softmax of the two rows.
double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits);

// Index of the largest value; the lowest index among equals.
int64_t argmax(std::span<const float> values);

}  // namespace vernier::kernels
