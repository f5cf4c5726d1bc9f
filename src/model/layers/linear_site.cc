#include "model/layers/linear_site.h"

#include <utility>

#include "kernels/linear_backward.h"

namespace vernier::model {

LinearSite::LinearSite(const Module& module, LinearWeight weight)
    : module_(&module), weight_(std::move(weight)) {}

std::optional<kernels::InputCodes> LinearSite::input_codes(int64_t n_tokens) const {
  return kernels::input_codes(weight_.packed, weight_.input, n_tokens);
}

void LinearSite::forward(ConstAnyMatrixView x, SiteHook* hook, AnyMatrixView y,
                         formats::InputMap map) const {
  if (hook != nullptr) hook->on_input(*module_, x);
  kernels::linear(x, weight_.packed, weight_.input, y, map);
}

void LinearSite::forward(const LinearInput& input, SiteHook* hook, AnyMatrixView y) const {
  if (input.coded_by.format == nullptr) return forward(input.x, hook, y);
  VERNIER_CHECK(hook == nullptr && input.coded_by == weight_.input);
  kernels::linear_of_codes(input.x, weight_.packed, weight_.input, y);
}

void LinearSite::show(ConstAnyMatrixView x, ConstAnyMatrixView y, Gradients g_y, GradientHook* hook,
                      int64_t first_row) const {
  if (hook != nullptr) hook->on_linear({*module_, x, y, g_y, first_row});
}

void LinearSite::backward(ConstAnyMatrixView x, ConstAnyMatrixView y, Gradients g_y,
                          GradientHook* hook, Gradients g_x) const {
  show(x, y, g_y, hook);
  for (size_t loss = 0; loss < g_y.size(); ++loss) {
    kernels::linear_input_gradient(g_y[loss], weight_.packed, g_x[loss]);
  }
}

}  // namespace vernier::model
