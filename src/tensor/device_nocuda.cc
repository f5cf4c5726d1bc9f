// A build without CUDA: the host is all there is.
#include "base/error.h"
#include "tensor/device.h"

namespace vernier {

int n_devices() { return 0; }

std::unique_ptr<Device> open_device(const DeviceOptions&) {
  throw Error(ErrorKind::kUnsupported,
              "this build has no CUDA, expected one made with the preset 'cuda'; run with "
              "--device cpu");
}

}  // namespace vernier
