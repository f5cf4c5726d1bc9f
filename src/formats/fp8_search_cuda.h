// The search for FP8's amax on a device (fp8_search_cuda.cu).
#pragma once

#include "formats/fp8_rule.h"

namespace vernier::formats::cuda {

// The Fp8CandidateLosses of a BF16 weight on a device, bit-equal to the host's. Waits.
std::vector<double> fp8_candidate_losses(const TensorView& weight,
                                         const std::vector<float>& amaxes);

}  // namespace vernier::formats::cuda
