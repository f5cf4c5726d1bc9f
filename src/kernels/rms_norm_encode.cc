// The norm whose results are codes: checks and dispatch. On the host it is a norm and a rounding in
// place.
#include "kernels/rms_norm_encode.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "kernels/rms_norm.h"

namespace vernier::kernels {

void rms_norm_encode(ConstAnyMatrixView x, VectorView<const float> weight, float eps,
                     const InputRule& rule, AnyMatrixView codes) {
  if (rule.format == nullptr) return rms_norm(x, weight, eps, codes);
  VERNIER_CHECK(same_shape(x, codes) && has_dtype(x, DType::kF32));
  VERNIER_CHECK(weight.size == x.cols && codes.row_stride == codes.cols);
  VERNIER_CHECK(x.cols % rule.format->k_multiple == 0);
  VERNIER_CHECK(same_place(codes.device, {x.device, weight.device}));
  if (codes.device != nullptr) return cuda::rms_norm_encode(x, weight, eps, rule, codes);
  cpu::rms_norm(x.host(), weight.host(), eps, codes.host());
  cpu::round_input(*rule.format, rule.scale, codes.host());
}

}  // namespace vernier::kernels
