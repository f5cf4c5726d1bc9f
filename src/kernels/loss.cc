// Gradients of losses at the logits: checks and dispatch.
#include "kernels/loss.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace vernier::kernels {
namespace {

bool are_logits(ConstAnyMatrixView a, ConstAnyMatrixView b) {
  return same_shape(a, b) && has_dtype(a, DType::kF32) && has_dtype(b, DType::kF32) &&
         a.device == b.device;
}

}  // namespace

void cross_entropy_gradient(ConstAnyMatrixView logits, std::span<const int32_t> targets,
                            float scale, AnyMatrixView g_logits) {
  VERNIER_CHECK(are_logits(logits, g_logits));
  VERNIER_CHECK(std::ssize(targets) == logits.rows);
  for (const int32_t target : targets) {
    VERNIER_CHECK(target == kNoTarget || (target >= 0 && target < logits.cols));
  }
  if (logits.device != nullptr) {
    return cuda::cross_entropy_gradient(logits, targets, scale, g_logits);
  }
  cpu::cross_entropy_gradient(logits.host(), targets, scale, g_logits.host());
}

void fisher_probe(ConstAnyMatrixView logits, uint64_t seed, uint64_t first_token, float scale,
                  AnyMatrixView g_logits) {
  VERNIER_CHECK(are_logits(logits, g_logits));
  if (logits.device != nullptr) {
    return cuda::fisher_probe(logits, seed, first_token, scale, g_logits);
  }
  cpu::fisher_probe(logits.host(), seed, first_token, scale, g_logits.host());
}

void kl_gradient(ConstAnyMatrixView teacher_logits, ConstAnyMatrixView logits, float scale,
                 AnyMatrixView g_logits) {
  VERNIER_CHECK(are_logits(logits, g_logits));
  VERNIER_CHECK(are_logits(teacher_logits, logits));
  if (logits.device != nullptr) return cuda::kl_gradient(teacher_logits, logits, scale, g_logits);
  cpu::kl_gradient(teacher_logits.host(), logits.host(), scale, g_logits.host());
}

}  // namespace vernier::kernels
