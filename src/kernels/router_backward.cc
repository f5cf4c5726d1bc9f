// Gradients of the MoE router: checks and dispatch.
#include "kernels/router_backward.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace vernier::kernels {

void combine_experts_backward(ConstAnyMatrixView g_r, int64_t first, const ExpertGroups& groups,
                              const Routing& routing, ConstAnyMatrixView outputs,
                              AnyMatrixView g_outputs, VectorView<float> g_weights) {
  VERNIER_CHECK(outputs.cols == g_r.cols && same_shape(outputs, g_outputs));
  VERNIER_CHECK(g_r.rows * routing.top_k == groups.places.size());
  VERNIER_CHECK(g_weights.size == groups.places.size());
  VERNIER_CHECK(routing.weights.size() == groups.places.size());
  VERNIER_CHECK(first >= 0 && first + outputs.rows <= groups.tokens.size());
  VERNIER_CHECK(is_activation(g_r) && is_activation(outputs) && g_outputs.dtype == outputs.dtype);
  VERNIER_CHECK(
      same_place(g_r.device, {outputs.device, g_outputs.device, g_weights.device,
                              groups.places.view().device, routing.weights.view().device}));
  if (g_r.device != nullptr) {
    return cuda::combine_experts_backward(g_r, first, groups, routing, outputs, g_outputs,
                                          g_weights);
  }
  cpu::combine_experts_backward(g_r.host(), first, groups, routing, outputs.host(),
                                g_outputs.host(), g_weights.host());
}

void gather_rows_backward(ConstAnyMatrixView g_y, int64_t first, const ExpertGroups& groups,
                          int64_t top_k, AnyMatrixView g_x) {
  VERNIER_CHECK(g_y.cols == g_x.cols && g_x.rows * top_k == groups.places.size());
  VERNIER_CHECK(first >= 0 && first + g_y.rows <= groups.tokens.size());
  VERNIER_CHECK(is_activation(g_y) && has_dtype(g_x, DType::kF32));
  VERNIER_CHECK(same_place(g_x.device, {g_y.device, groups.places.view().device}));
  if (g_x.device != nullptr) return cuda::gather_rows_backward(g_y, first, groups, top_k, g_x);
  cpu::gather_rows_backward(g_y.host(), first, groups, top_k, g_x.host());
}

void route_backward(const RouterShape& shape, ConstAnyMatrixView logits, const Routing& routing,
                    VectorView<const float> g_weights, AnyMatrixView g_logits) {
  VERNIER_CHECK(logits.cols == shape.n_experts && same_shape(logits, g_logits));
  VERNIER_CHECK(has_dtype(logits, DType::kF32) && has_dtype(g_logits, DType::kF32));
  VERNIER_CHECK(logits.rows == 0 || logits.data != g_logits.data);
  VERNIER_CHECK(routing.top_k == shape.top_k);
  VERNIER_CHECK(routing.experts.size() == logits.rows * shape.top_k);
  VERNIER_CHECK(g_weights.size == logits.rows * shape.top_k);
  VERNIER_CHECK(same_place(logits.device,
                           {routing.experts.view().device, g_weights.device, g_logits.device}));
  if (logits.device != nullptr) {
    return cuda::route_backward(shape, logits, routing, g_weights, g_logits);
  }
  cpu::route_backward(shape, logits.host(), routing, g_weights.host(), g_logits.host());
}

}  // namespace vernier::kernels
