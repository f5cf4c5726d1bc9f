// NVFP4's encoder on a device (nvfp4_encode_cuda.cu).
#pragma once

#include "formats/format.h"

namespace vernier::formats::cuda {

// DeviceCodec::encode.
PackedTensor nvfp4_encode(const TensorView& weight, const EncodeOptions& options);

}  // namespace vernier::formats::cuda
