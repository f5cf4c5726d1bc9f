// Gradients of root-mean-square norms: checks and dispatch.
#include "kernels/rms_norm_backward.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace vernier::kernels {

void rms_norm_backward(ConstAnyMatrixView x, VectorView<const float> weight, float eps,
                       ConstAnyMatrixView g_y, AnyMatrixView g_x, VectorView<float> g_weight) {
  VERNIER_CHECK(same_shape(x, g_y) && same_shape(x, g_x));
  VERNIER_CHECK(is_activation(x) && is_activation(g_y) && has_dtype(g_x, DType::kF32));
  VERNIER_CHECK(weight.size == x.cols);
  VERNIER_CHECK(g_weight.empty() || (g_weight.size == x.cols && g_weight.device == g_x.device));
  VERNIER_CHECK(same_place(g_x.device, {x.device, g_y.device, weight.device}));
  if (g_x.device != nullptr) return cuda::rms_norm_backward(x, weight, eps, g_y, g_x, g_weight);
  cpu::rms_norm_backward(x.host(), weight.host(), eps, g_y.host(), g_x.host(), g_weight.host());
}

void gated_group_norm_backward(ConstAnyMatrixView x, ConstAnyMatrixView gate,
                               VectorView<const float> weight, int64_t n_groups, float eps,
                               ConstAnyMatrixView g_y, AnyMatrixView g_x, AnyMatrixView g_gate,
                               VectorView<float> g_weight) {
  VERNIER_CHECK(same_shape(x, gate) && same_shape(x, g_y));
  VERNIER_CHECK(same_shape(x, g_x) && same_shape(x, g_gate));
  VERNIER_CHECK(is_activation(x) && gate.dtype == x.dtype && g_y.dtype == x.dtype);
  VERNIER_CHECK(g_x.dtype == x.dtype && g_gate.dtype == x.dtype);
  VERNIER_CHECK(weight.size == x.cols);
  VERNIER_CHECK(n_groups > 0 && x.cols % n_groups == 0);
  VERNIER_CHECK(g_weight.empty() || (g_weight.size == x.cols && g_weight.device == g_x.device));
  VERNIER_CHECK(
      same_place(g_x.device, {x.device, gate.device, g_y.device, weight.device, g_gate.device}));
  if (g_x.device != nullptr) {
    return cuda::gated_group_norm_backward(x, gate, weight, n_groups, eps, g_y, g_x, g_gate,
                                           g_weight);
  }
  cpu::gated_group_norm_backward(x.host(), gate.host(), weight.host(), n_groups, eps, g_y.host(),
                                 g_x.host(), g_gate.host(), g_weight.host());
}

}  // namespace vernier::kernels
