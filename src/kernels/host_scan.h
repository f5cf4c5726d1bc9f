// The scan's inputs as the host's implementations take them: one sequence, all FP32.
#pragma once

#include <span>

#include "kernels/ssm_scan.h"
#include "tensor/matrix.h"

namespace vernier::kernels {

// As SsmInputs (ssm_scan.h), the rows of one sequence.
struct HostScanInputs {
  ConstMatrixView x;
  ConstMatrixView b;
  ConstMatrixView c;
  ConstMatrixView dt;
  std::span<const float> a;
  std::span<const float> d;
};

// Rows [first_row, first_row + n_rows) of inputs in host memory.
inline HostScanInputs host_rows(const SsmInputs& in, int64_t first_row, int64_t n_rows) {
  return {.x = in.x.row_range(first_row, n_rows).host(),
          .b = in.b.row_range(first_row, n_rows).host(),
          .c = in.c.row_range(first_row, n_rows).host(),
          .dt = in.dt.row_range(first_row, n_rows).host(),
          .a = in.a.host(),
          .d = in.d.host()};
}

}  // namespace vernier::kernels
