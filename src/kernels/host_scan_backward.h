// The scan's gradients as the host's implementations give them: one sequence, all FP32.
#pragma once

#include <span>

#include "kernels/host_scan.h"

namespace vernier::kernels {

// As SsmGradients (ssm_scan_backward.h), the rows of one sequence.
struct HostScanGradients {
  MatrixView x;
  MatrixView b;
  MatrixView c;
  MatrixView dt;
  std::span<float> a;
  std::span<float> d;
};

}  // namespace vernier::kernels
