#include "tensor/device.h"

#include <cstring>

#include "base/check.h"

namespace vernier {

DType compute_dtype(const Device* device) {
  return device == nullptr ? DType::kF32 : device->compute_dtype();
}

void copy_bytes(void* to, Device* to_device, const void* from, Device* from_device, int64_t bytes) {
  if (bytes == 0) return;
  if (to_device == nullptr && from_device == nullptr) {
    std::memcpy(to, from, static_cast<size_t>(bytes));
  } else if (to_device == nullptr) {
    from_device->copy_to_host(to, from, bytes);
  } else if (from_device == nullptr) {
    to_device->copy_from_host(to, from, bytes);
  } else {
    VERNIER_CHECK(to_device == from_device);
    to_device->copy(to, from, bytes);
  }
}

void fill_zero(void* to, Device* device, int64_t bytes) {
  if (bytes == 0) return;
  if (device == nullptr) {
    std::memset(to, 0, static_cast<size_t>(bytes));
  } else {
    device->fill_zero(to, bytes);
  }
}

}  // namespace vernier
