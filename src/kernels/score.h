// What evaluation asks of rows of logits.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/any_matrix.h"

namespace vernier::kernels {

inline constexpr int32_t kNoTarget = -1;

struct TokenScore {
  double nll = 0;         // -log p(target), nats; 0 without a target
  double kl = 0;          // sum_v p_v (log p_v - log q_v), nats: p of `base`, q of `logits`
  bool is_agreed = true;  // both prefer the same token, of equals the lower
};

// base, logits: FP32 [tokens, vocabulary], may be the same. targets, scores: [tokens] in host
// memory; a target is a token id or kNoTarget. FP32 exponentials, sums in double. Waits for the
// device.
void score_logits(ConstAnyMatrixView base, ConstAnyMatrixView logits,
                  std::span<const int32_t> targets, std::span<TokenScore> scores);

}  // namespace vernier::kernels
