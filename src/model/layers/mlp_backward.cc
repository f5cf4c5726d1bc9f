// Backward of down(max(up u, 0)^2).
#include "kernels/elementwise.h"
#include "kernels/elementwise_backward.h"
#include "model/layers/gradient_set.h"
#include "model/layers/mlp.h"

namespace vernier::model {

void SquaredReluMlp::backward(ConstAnyMatrixView u, Gradients g_y, GradientHook* hook,
                              Gradients g_u) const {
  Device* device = u.device;
  AnyMatrix projected = new_activation(u.rows, up.n(), device);
  up.forward(u, nullptr, projected);
  AnyMatrix inner = new_activation(u.rows, up.n(), device);
  copy_matrix(projected, inner);
  kernels::squared_relu(inner);
  AnyMatrix y;
  if (hook != nullptr && hook->wants_outputs()) {
    y = AnyMatrix(u.rows, down.n(), DType::kF32, device);
    down.forward(inner, nullptr, y);
  }

  const GradientSet g_inner = GradientSet::of_activation(g_y.size(), u.rows, up.n(), device);
  down.backward(inner, y, g_y, hook, g_inner);
  for (size_t loss = 0; loss < g_y.size(); ++loss) {
    kernels::squared_relu_backward(projected, g_inner[loss]);
  }
  up.backward(u, projected, g_inner, hook, g_u);
}

void Mlp::backward(ConstAnyMatrixView u, std::span<const kernels::SequenceSpan> /*sequences*/,
                   Gradients g_y, GradientHook* hook, Gradients g_u) const {
  mlp_.backward(u, g_y, hook, g_u);
}

}  // namespace vernier::model
