// Root-mean-square norms: checks and dispatch.
#include "kernels/rms_norm.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace vernier::kernels {

void rms_norm(ConstAnyMatrixView x, VectorView<const float> weight, float eps, AnyMatrixView y) {
  VERNIER_CHECK(same_shape(x, y) && is_activation(x) && is_activation(y));
  VERNIER_CHECK(weight.size == x.cols);
  VERNIER_CHECK(same_place(y.device, {x.device, weight.device}));
  if (y.device != nullptr) return cuda::rms_norm(x, weight, eps, y);
  cpu::rms_norm(x.host(), weight.host(), eps, y.host());
}

void gated_group_norm(ConstAnyMatrixView x, ConstAnyMatrixView gate, VectorView<const float> weight,
                      int64_t n_groups, float eps, AnyMatrixView y) {
  VERNIER_CHECK(same_shape(x, y) && same_shape(x, gate));
  VERNIER_CHECK(is_activation(x) && gate.dtype == x.dtype && y.dtype == x.dtype);
  VERNIER_CHECK(weight.size == x.cols);
  VERNIER_CHECK(n_groups > 0 && x.cols % n_groups == 0);
  VERNIER_CHECK(same_place(y.device, {x.device, gate.device, weight.device}));
  if (y.device != nullptr) return cuda::gated_group_norm(x, gate, weight, n_groups, eps, y);
  cpu::gated_group_norm(x.host(), gate.host(), weight.host(), n_groups, eps, y.host());
}

}  // namespace vernier::kernels
