// From the options of an encoder to the scale of one weight: the host's part of encoding FP8,
// whatever device the weight is packed on.
#pragma once

#include <vector>

#include "formats/format.h"

namespace vernier::formats {

// The squared error of the whole weight for each candidate amax: fp8_loss of every row, added in
// the order of rows.
using Fp8CandidateLosses = std::vector<double>(const TensorView& weight,
                                               const std::vector<float>& amaxes);

// The scale by the rule. Waits for the weight's device where it has to look at the weight.
float fp8_scale(const TensorView& weight, const EncodeOptions& options,
                Fp8CandidateLosses* candidate_losses);

}  // namespace vernier::formats
