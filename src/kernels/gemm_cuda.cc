#include "kernels/gemm_cuda.h"

#include <fmt/format.h>

#include "base/error.h"
#include "kernels/gemm_plans_cuda.h"

namespace vernier::kernels::cuda {
namespace {

bool has_aligned_rows(ConstAnyMatrixView matrix) {
  return alignment_bytes(matrix) == 16 && matrix.row_stride * matrix.elem_bytes() % 16 == 0;
}

}  // namespace

bool is_fp8_aligned(const Product& product) {
  return product.weight.rows % 16 == 0 && product.weight.cols % 16 == 0 &&
         has_aligned_rows(product.x) && has_aligned_rows(product.weight) &&
         has_aligned_rows(product.y);
}

bool try_multiply(const Product& product) {
  if (product.y.rows == 0 || product.y.cols == 0) return true;
  GemmPlans& plans = product.y.device->state<GemmPlans>();
  const auto algorithm = plans.find(product);
  if (!algorithm) return false;
  VERNIER_CUBLAS(LtProduct(plans.library(), product).queue(*algorithm));
  return true;
}

void multiply(const Product& product) {
  if (try_multiply(product)) return;
  throw Error(ErrorKind::kUnsupported,
              fmt::format("{} has no kernel for the matrix product {}", product.y.device->name(),
                          ProductShape(product).text()));
}

}  // namespace vernier::kernels::cuda
