// Root-mean-square norms: checks and dispatch.
#include "kernels/rms_norm.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"

namespace vernier::kernels {

void rms_norm(ConstMatrixView x, std::span<const float> weight, float eps, MatrixView y) {
  VERNIER_CHECK(same_shape(x, y));
  VERNIER_CHECK(has_size(weight, x.cols));
  cpu::rms_norm(x, weight, eps, y);
}

void gated_group_norm(ConstMatrixView x, ConstMatrixView gate, std::span<const float> weight,
                      int64_t n_groups, float eps, MatrixView y) {
  VERNIER_CHECK(same_shape(x, y) && same_shape(x, gate));
  VERNIER_CHECK(has_size(weight, x.cols));
  VERNIER_CHECK(n_groups > 0 && x.cols % n_groups == 0);
  cpu::gated_group_norm(x, gate, weight, n_groups, eps, y);
}

}  // namespace vernier::kernels
