#include "model/layers/mlp.h"

#include "kernels/elementwise.h"

namespace vernier::model {

// Where inner becomes codes and nobody watches, it is squared on the way; else in place.
void SquaredReluMlp::forward(const LinearInput& u, SiteHook* hook, AnyMatrixView y) const {
  AnyMatrix inner = new_activation(u.x.rows, up.n(), y.device);
  up.forward(u, hook, inner);
  if (hook == nullptr && down.rounds_input()) {
    return down.forward(inner, nullptr, y, formats::InputMap::kSquaredRelu);
  }
  kernels::squared_relu(inner);
  down.forward(inner, hook, y);
}

void Mlp::forward(const LinearInput& u, std::span<const SequenceRows> /*sequences*/, SiteHook* hook,
                  AnyMatrixView y) const {
  mlp_.forward(u, hook, y);
}

}  // namespace vernier::model
