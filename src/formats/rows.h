// The registry's rows, each defined in its format's own file. Callers go through format.h.
#pragma once

#include "formats/format.h"

namespace vernier::formats {

extern const Format kBf16Format;     // bf16_format.cc
extern const Format kFp8E4m3Format;  // fp8.cc
extern const Format kNvfp4Format;    // nvfp4.cc

// The codecs on devices: bf16_cuda.cu and so on; codecs_nocuda.cc in a build without CUDA.
extern const DeviceCodec kBf16DeviceCodec;
extern const DeviceCodec kFp8DeviceCodec;
extern const DeviceCodec kNvfp4DeviceCodec;

}  // namespace vernier::formats
