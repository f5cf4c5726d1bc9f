// scan_amax of a tensor on a device (amax_cuda.cu; codecs_nocuda.cc in a build without CUDA).
#pragma once

#include "formats/format.h"

namespace vernier::formats::cuda {

// REQUIRES: BF16. Waits.
AmaxScan scan_amax(const TensorView& weight);

}  // namespace vernier::formats::cuda
