// The host's matrix product through OpenBLAS: the one file that knows it.
#include "kernels/gemm_cpu.h"

#include <cblas.h>

#include "base/check.h"
#include "kernels/linear.h"

namespace vernier::kernels {

void configure_host_threads() { openblas_set_num_threads(1); }

namespace cpu {

void gemm(Operand a, Operand b, float beta, MatrixView c) {
  if (c.rows == 0 || c.cols == 0) return;
  const int64_t n_inner = a.transposed ? a.matrix.rows : a.matrix.cols;
  VERNIER_DCHECK(c.rows == (a.transposed ? a.matrix.cols : a.matrix.rows));
  VERNIER_DCHECK(c.cols == (b.transposed ? b.matrix.rows : b.matrix.cols));
  VERNIER_DCHECK(n_inner == (b.transposed ? b.matrix.cols : b.matrix.rows));
  const auto op = [](const Operand& operand) {
    return operand.transposed ? CblasTrans : CblasNoTrans;
  };
  cblas_sgemm(CblasRowMajor, op(a), op(b), static_cast<int>(c.rows), static_cast<int>(c.cols),
              static_cast<int>(n_inner), 1.0f, a.matrix.data, static_cast<int>(a.matrix.row_stride),
              b.matrix.data, static_cast<int>(b.matrix.row_stride), beta, c.data,
              static_cast<int>(c.row_stride));
}

}  // namespace cpu
}  // namespace vernier::kernels
