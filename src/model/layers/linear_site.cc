#include "model/layers/linear_site.h"

#include <utility>

namespace vernier::model {

LinearSite::LinearSite(const Module& module, LinearWeight weight)
    : module_(&module), weight_(std::move(weight)) {
  VERNIER_CHECK(weight_.packed.n == module.n && weight_.packed.k == module.k);
}

void LinearSite::forward(ConstAnyMatrixView x, SiteHook* hook, AnyMatrixView y) const {
  if (hook != nullptr) hook->on_input(*module_, x);
  kernels::linear(x, weight_.packed, weight_.input, y);
}

}  // namespace vernier::model
