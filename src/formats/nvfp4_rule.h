// From the options of an encoder to the scaling of one weight: the host's part of encoding NVFP4,
// whatever device the blocks are packed on.
#pragma once

#include "formats/format.h"
#include "formats/nvfp4.h"

namespace vernier::formats {

// Throws InvalidArgument when NVFP4 has no such rule.
void check_nvfp4_rule(const ScaleRule& rule);
// Scans the weight, and waits for its device, where the options have no global amax.
Nvfp4Scaling nvfp4_scaling(const TensorView& weight, const EncodeOptions& options);

}  // namespace vernier::formats
