// A device other than the host, and the queue its work runs on. Tensors and matrices carry a
// pointer to theirs, so an op finds in its arguments where to run; null stands for the host
// everywhere.
//
// Work is queued in order and runs later: an op on a device returns at once, and memory may be
// freed while work that reads it is still queued, since freeing is queued too. Only what says so
// waits. A device belongs to one thread at a time, upload queues excepted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <typeindex>
#include <unordered_map>

#include "tensor/dtype.h"

namespace vernier {

struct DeviceOptions {
  int index = 0;  // among the devices that the driver shows
  // Type of activations between ops: kBF16, or kF32 for products without any reduced precision.
  DType compute_dtype = DType::kBF16;
  int64_t max_bytes = 0;  // most memory that may be allocated; 0: what the device has
};

struct DeviceMemory {
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;
  int64_t used_bytes = 0;  // allocated by us, now
  int64_t peak_bytes = 0;  // the most since the device was opened
};

// Copies of large host ranges into device memory, by threads of their own, beside the device's
// queue. Safe for use by one thread beside the device's own.
class UploadQueue {
 public:
  struct Upload {
    std::byte* data = nullptr;  // device memory of the copy; Device::free gives it back
    int64_t ticket = 0;
  };
  virtual ~UploadQueue() = default;
  // Allocates and starts to copy. `from` must stay valid until wait() has returned for the ticket.
  virtual Upload push(const void* from, int64_t bytes) = 0;
  // Returns when the host has been read for this and all earlier tickets; work queued on the device
  // afterwards finds the copies.
  virtual void wait(int64_t ticket) = 0;
};

class Device {
 public:
  virtual ~Device() = default;

  virtual std::string name() const = 0;  // "NVIDIA H100 80GB HBM3"
  virtual DType compute_dtype() const = 0;
  virtual DeviceMemory memory() const = 0;

  // Memory aligned to 256 bytes, not initialized. Throws OutOfMemory with the numbers.
  virtual std::byte* allocate(int64_t bytes) = 0;
  virtual void free(std::byte* data) noexcept = 0;

  // Page-locked host memory, which copies to and from the device reach directly. Throws
  // OutOfMemory.
  virtual void* allocate_pinned(int64_t bytes) = 0;
  virtual void free_pinned(void* data) noexcept = 0;

  // Queued; returns when `from` may be changed.
  virtual void copy_from_host(void* to, const void* from, int64_t bytes) = 0;
  // Waits for all queued work and the copy.
  virtual void copy_to_host(void* to, const void* from, int64_t bytes) = 0;
  // Queued, and nothing waits: page-locked memory on the host's side.
  virtual void copy_pinned(void* to, const void* from, int64_t bytes) = 0;
  virtual void copy(void* to, const void* from, int64_t bytes) = 0;
  virtual void fill_zero(void* to, int64_t bytes) = 0;
  // Waits for all queued work. Throws Environment when some of it failed.
  virtual void synchronize() = 0;

  virtual std::unique_ptr<UploadQueue> new_upload_queue(int n_threads) = 0;

  // An object kept with the device: a library's handle, cached plans. Made at first use.
  template <class T>
  T& state() {
    std::shared_ptr<void>& slot = states_[std::type_index(typeid(T))];
    if (slot == nullptr) slot = std::make_shared<T>(*this);
    return *static_cast<T*>(slot.get());
  }

 protected:
  void drop_states() { states_.clear(); }

 private:
  std::unordered_map<std::type_index, std::shared_ptr<void>> states_;
};

// Devices that this build and this machine can use: 0 without CUDA or a driver.
int n_devices();
// Throws Unsupported in a build without CUDA, NotFound without such a device, Environment when the
// driver fails.
std::unique_ptr<Device> open_device(const DeviceOptions& options);

// The type of activations between ops there; kF32 on the host.
DType compute_dtype(const Device* device);
// From anywhere to anywhere; null is the host. Waits where copy_to_host does.
void copy_bytes(void* to, Device* to_device, const void* from, Device* from_device, int64_t bytes);
void fill_zero(void* to, Device* device, int64_t bytes);

}  // namespace vernier
