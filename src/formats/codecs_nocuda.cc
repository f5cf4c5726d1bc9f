// A build without CUDA: no tensor lives on a device, so none of this can be reached; open_device
// has said so before.
#include "base/check.h"
#include "formats/amax_cuda.h"
#include "formats/nvfp4_hessian.h"
#include "formats/rows.h"

namespace vernier::formats {

constinit const DeviceCodec kBf16DeviceCodec = {};
constinit const DeviceCodec kFp8DeviceCodec = {};
constinit const DeviceCodec kNvfp4DeviceCodec = {};

namespace cuda {

AmaxScan scan_amax(const TensorView&) {
  VERNIER_CHECK(false);
  return {};
}

void nvfp4_choose_hessian_scales(const TensorView&, VectorView<const float>, float, Arithmetic,
                                 uint8_t*) {
  VERNIER_CHECK(false);
}

}  // namespace cuda
}  // namespace vernier::formats
