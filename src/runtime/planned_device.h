// A device that is not there, for plans: it says what it would compute in.
#pragma once

#include "base/check.h"
#include "tensor/device.h"

namespace vernier::runtime {

// REQUIRES: nothing is allocated or copied.
class PlannedDevice : public Device {
 public:
  explicit PlannedDevice(DType compute_dtype = DType::kBF16) : compute_dtype_(compute_dtype) {}

  std::string name() const override { return "a planned device"; }
  DType compute_dtype() const override { return compute_dtype_; }
  DeviceMemory memory() const override { return {}; }
  std::byte* allocate(int64_t) override { VERNIER_CHECK(!"a device"); }
  void free(std::byte*) noexcept override {}
  void* allocate_pinned(int64_t) override { VERNIER_CHECK(!"a device"); }
  void free_pinned(void*) noexcept override {}
  void copy_from_host(void*, const void*, int64_t) override { VERNIER_CHECK(!"a device"); }
  void copy_to_host(void*, const void*, int64_t) override { VERNIER_CHECK(!"a device"); }
  void copy_pinned(void*, const void*, int64_t) override { VERNIER_CHECK(!"a device"); }
  void copy(void*, const void*, int64_t) override { VERNIER_CHECK(!"a device"); }
  void fill_zero(void*, int64_t) override { VERNIER_CHECK(!"a device"); }
  void synchronize() override {}
  std::unique_ptr<UploadQueue> new_upload_queue(int) override { VERNIER_CHECK(!"a device"); }

 private:
  DType compute_dtype_;
};

}  // namespace vernier::runtime
