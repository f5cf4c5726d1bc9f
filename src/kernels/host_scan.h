// The scan's inputs as the host's implementations take them: one sequence, all FP32.
#pragma once

#include <span>

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

}  // namespace vernier::kernels
