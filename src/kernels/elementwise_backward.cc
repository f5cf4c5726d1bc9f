// Gradients of pointwise maps: checks and dispatch.
#include "kernels/elementwise_backward.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace vernier::kernels {

void squared_relu_backward(ConstAnyMatrixView x, AnyMatrixView g) {
  VERNIER_CHECK(same_shape(x, g) && is_activation(x) && g.dtype == x.dtype);
  VERNIER_CHECK(same_place(g.device, {x.device}));
  if (g.device != nullptr) return cuda::squared_relu_backward(x, g);
  cpu::squared_relu_backward(x.host(), g.host());
}

void softplus_dt_backward(ConstAnyMatrixView raw, VectorView<const float> bias, float low,
                          float high, ConstAnyMatrixView g_dt, AnyMatrixView g_raw,
                          VectorView<float> g_bias) {
  VERNIER_CHECK(same_shape(raw, g_dt) && same_shape(raw, g_raw));
  VERNIER_CHECK(is_activation(raw) && g_raw.dtype == raw.dtype && has_dtype(g_dt, DType::kF32));
  VERNIER_CHECK(bias.size == raw.cols && low <= high);
  VERNIER_CHECK(g_bias.empty() || (g_bias.size == raw.cols && g_bias.device == raw.device));
  VERNIER_CHECK(same_place(raw.device, {bias.device, g_dt.device, g_raw.device}));
  if (raw.device != nullptr) {
    return cuda::softplus_dt_backward(raw, bias, low, high, g_dt, g_raw, g_bias);
  }
  cpu::softplus_dt_backward(raw.host(), bias.host(), low, high, g_dt.host(), g_raw.host(),
                            g_bias.host());
}

}  // namespace vernier::kernels
