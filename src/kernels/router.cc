// The MoE router: checks and dispatch.
#include "kernels/router.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace vernier::kernels {

Routing route(const RouterShape& shape, ConstAnyMatrixView logits,
              VectorView<const float> correction_bias) {
  VERNIER_CHECK(logits.cols == shape.n_experts && correction_bias.size == shape.n_experts);
  VERNIER_CHECK(shape.n_groups > 0 && shape.n_experts % shape.n_groups == 0);
  VERNIER_CHECK(shape.top_groups > 0 && shape.top_groups <= shape.n_groups);
  VERNIER_CHECK(shape.top_k > 0);
  VERNIER_CHECK(shape.top_k <= shape.top_groups * (shape.n_experts / shape.n_groups));
  VERNIER_CHECK(has_dtype(logits, DType::kF32));
  VERNIER_CHECK(same_place(logits.device, {correction_bias.device}));
  if (logits.device != nullptr) return cuda::route(shape, logits, correction_bias);
  return cpu::route(shape, logits.host(), correction_bias.host());
}

ExpertGroups group_by_expert(const Routing& routing, int64_t n_experts) {
  VERNIER_CHECK(routing.top_k > 0 && routing.experts.size() % routing.top_k == 0);
  if (routing.experts.view().device != nullptr) return cuda::group_by_expert(routing, n_experts);
  return cpu::group_by_expert(routing, n_experts);
}

void combine_experts(ConstAnyMatrixView outputs, int64_t first, const ExpertGroups& groups,
                     const Routing& routing, AnyMatrixView r) {
  VERNIER_CHECK(outputs.cols == r.cols && r.rows * routing.top_k == groups.places.size());
  VERNIER_CHECK(first >= 0 && first + outputs.rows <= groups.tokens.size());
  VERNIER_CHECK(is_activation(outputs) && has_dtype(r, DType::kF32));
  VERNIER_CHECK(same_place(
      r.device, {outputs.device, groups.places.view().device, routing.weights.view().device}));
  if (r.device != nullptr) return cuda::combine_experts(outputs, first, groups, routing, r);
  cpu::combine_experts(outputs.host(), first, groups, routing, r.host());
}

}  // namespace vernier::kernels
