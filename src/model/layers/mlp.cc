#include "model/layers/mlp.h"

#include "kernels/elementwise.h"

namespace vernier::model {

void SquaredReluMlp::forward(ConstMatrixView u, SiteHook* hook, MatrixView y) const {
  Matrix inner(u.rows, up.n());
  up.forward(u, hook, inner);
  kernels::squared_relu(inner);
  down.forward(inner, hook, y);
}

void Mlp::forward(ConstMatrixView u, std::span<const SequenceRows> /*sequences*/, SiteHook* hook,
                  MatrixView y) const {
  mlp_.forward(u, hook, y);
}

}  // namespace vernier::model
