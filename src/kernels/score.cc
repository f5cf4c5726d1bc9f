// Scores of logits: checks and dispatch.
#include "kernels/score.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace vernier::kernels {

void score_logits(ConstAnyMatrixView base, ConstAnyMatrixView logits,
                  std::span<const int32_t> targets, std::span<TokenScore> scores) {
  VERNIER_CHECK(same_shape(base, logits) && logits.cols > 0);
  VERNIER_CHECK(has_dtype(base, DType::kF32) && has_dtype(logits, DType::kF32));
  VERNIER_CHECK(same_place(logits.device, {base.device}));
  VERNIER_CHECK(std::ssize(targets) == logits.rows && std::ssize(scores) == logits.rows);
  for (const int32_t target : targets) {
    VERNIER_CHECK(target == kNoTarget || (target >= 0 && target < logits.cols));
  }
  if (logits.device != nullptr) return cuda::score_logits(base, logits, targets, scores);
  cpu::score_logits(base.host(), logits.host(), targets, scores);
}

}  // namespace vernier::kernels
