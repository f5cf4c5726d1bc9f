// Scores of logits on the host: rows in parallel.
#include "kernels/cpu.h"

namespace vernier::kernels::cpu {

void score_logits(ConstMatrixView base, ConstMatrixView logits, std::span<const int32_t> targets,
                  std::span<TokenScore> scores) {
  const bool is_same = base.data == logits.data;
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < logits.rows; ++row) {
    const std::span<const float> own = logits.row(row);
    const int32_t target = targets[static_cast<size_t>(row)];
    TokenScore score;
    if (target != kNoTarget) score.nll = log_sum_exp(own) - own[static_cast<size_t>(target)];
    if (!is_same) {
      score.kl = kl_divergence(base.row(row), own);
      score.is_agreed = argmax(base.row(row)) == argmax(own);
    }
    scores[static_cast<size_t>(row)] = score;
  }
}

}  // namespace vernier::kernels::cpu
