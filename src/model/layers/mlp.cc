#include "model/layers/mlp.h"

#include "kernels/elementwise.h"

namespace vernier::model {

void SquaredReluMlp::forward(ConstAnyMatrixView u, SiteHook* hook, AnyMatrixView y) const {
  AnyMatrix inner = new_activation(u.rows, up.n(), y.device);
  up.forward(u, hook, inner);
  kernels::squared_relu(inner);
  down.forward(inner, hook, y);
}

void Mlp::forward(ConstAnyMatrixView u, std::span<const SequenceRows> /*sequences*/, SiteHook* hook,
                  AnyMatrixView y) const {
  mlp_.forward(u, hook, y);
}

}  // namespace vernier::model
