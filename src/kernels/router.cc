// The MoE router: checks and dispatch.
#include "kernels/router.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"

namespace vernier::kernels {

Routing route(const RouterShape& shape, ConstMatrixView logits,
              std::span<const float> correction_bias) {
  VERNIER_CHECK(logits.cols == shape.n_experts && has_size(correction_bias, shape.n_experts));
  VERNIER_CHECK(shape.n_groups > 0 && shape.n_experts % shape.n_groups == 0);
  VERNIER_CHECK(shape.top_groups > 0 && shape.top_groups <= shape.n_groups);
  VERNIER_CHECK(shape.top_k > 0);
  VERNIER_CHECK(shape.top_k <= shape.top_groups * (shape.n_experts / shape.n_groups));
  return cpu::route(shape, logits, correction_bias);
}

}  // namespace vernier::kernels
