// A CUDA device: one stream, and a memory pool of the driver's, which hands freed memory out again
// in the stream's order without asking the system.
#include "tensor/device_cuda.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "tensor/upload_queue_cuda.h"

namespace vernier {

void check_cuda(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  const ErrorKind kind =
      status == cudaErrorMemoryAllocation ? ErrorKind::kOutOfMemory : ErrorKind::kEnvironment;
  throw Error(kind, fmt::format("the CUDA device failed: {} ({}) in {}", cudaGetErrorString(status),
                                cudaGetErrorName(status), call));
}

namespace {

class CudaDeviceImpl : public CudaDevice {
 public:
  explicit CudaDeviceImpl(const DeviceOptions& options) : options_(options) {
    VERNIER_CUDA(cudaSetDevice(options.index));
    VERNIER_CUDA(cudaGetDeviceProperties(&properties_, options.index));
    VERNIER_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    create_pool();
  }

  ~CudaDeviceImpl() override {
    drop_states();
    cudaStreamSynchronize(stream_);
    cudaMemPoolDestroy(pool_);
    cudaStreamDestroy(stream_);
  }

  std::string name() const override { return properties_.name; }
  DType compute_dtype() const override { return options_.compute_dtype; }
  cudaStream_t stream() const override { return stream_; }
  const cudaDeviceProp& properties() const override { return properties_; }

  DeviceMemory memory() const override {
    size_t free_bytes = 0, total_bytes = 0;
    VERNIER_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
    return {static_cast<int64_t>(total_bytes), static_cast<int64_t>(free_bytes),
            pool_bytes(cudaMemPoolAttrUsedMemCurrent), pool_bytes(cudaMemPoolAttrReservedMemHigh)};
  }

  std::byte* allocate(int64_t bytes) override {
    return allocate_from(pool_, bytes, stream_, [this] { return memory(); });
  }
  void free(std::byte* data) noexcept override { cudaFreeAsync(data, stream_); }

  void* allocate_pinned(int64_t bytes) override {
    void* data = nullptr;
    VERNIER_CUDA(cudaMallocHost(&data, static_cast<size_t>(bytes)));
    return data;
  }
  void free_pinned(void* data) noexcept override { cudaFreeHost(data); }

  void copy_from_host(void* to, const void* from, int64_t bytes) override {
    queue_copy(to, from, bytes, cudaMemcpyHostToDevice);
  }
  void copy_to_host(void* to, const void* from, int64_t bytes) override {
    queue_copy(to, from, bytes, cudaMemcpyDeviceToHost);
    synchronize();
  }
  void copy_pinned(void* to, const void* from, int64_t bytes) override {
    queue_copy(to, from, bytes, cudaMemcpyDefault);
  }
  void copy(void* to, const void* from, int64_t bytes) override {
    queue_copy(to, from, bytes, cudaMemcpyDeviceToDevice);
  }
  void fill_zero(void* to, int64_t bytes) override {
    VERNIER_CUDA(cudaMemsetAsync(to, 0, static_cast<size_t>(bytes), stream_));
  }
  void synchronize() override { VERNIER_CUDA(cudaStreamSynchronize(stream_)); }

  std::unique_ptr<UploadQueue> new_upload_queue(int n_threads) override {
    return new_cuda_upload_queue(*this, options_.index, pool_, n_threads);
  }

 private:
  void create_pool() {
    cudaMemPoolProps props = {};
    props.allocType = cudaMemAllocationTypePinned;
    props.location = {cudaMemLocationTypeDevice, options_.index};
    props.maxSize = static_cast<size_t>(std::max<int64_t>(options_.max_bytes, 0));
    VERNIER_CUDA(cudaMemPoolCreate(&pool_, &props));
    // Freed memory stays ours; the system is asked once.
    uint64_t keep = std::numeric_limits<uint64_t>::max();
    VERNIER_CUDA(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep));
  }

  int64_t pool_bytes(cudaMemPoolAttr what) const {
    uint64_t bytes = 0;
    VERNIER_CUDA(cudaMemPoolGetAttribute(pool_, what, &bytes));
    return static_cast<int64_t>(bytes);
  }

  // Pageable host memory is staged by the driver, so that `from` may change when this returns.
  void queue_copy(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind) {
    VERNIER_CUDA(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, stream_));
  }

  DeviceOptions options_;
  cudaDeviceProp properties_ = {};
  cudaStream_t stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
};

}  // namespace

std::byte* allocate_from(cudaMemPool_t pool, int64_t bytes, cudaStream_t stream,
                         const std::function<DeviceMemory()>& memory) {
  void* data = nullptr;
  const auto size = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  const cudaError_t status = cudaMallocFromPoolAsync(&data, size, pool, stream);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // it is reported here, not by the next launch
    const DeviceMemory now = memory();
    throw Error(
        ErrorKind::kOutOfMemory,
        fmt::format("the device has no room for {} bytes more: {} are in use by this job, {} "
                    "of {} are free (see --plan and --max-device-memory)",
                    size, now.used_bytes, now.free_bytes, now.total_bytes));
  }
  check_cuda(status, "cudaMallocFromPoolAsync");
  return static_cast<std::byte*>(data);
}

int n_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

std::unique_ptr<Device> open_device(const DeviceOptions& options) {
  if (options.index < 0 || options.index >= n_devices()) {
    throw Error(ErrorKind::kNotFound,
                fmt::format("CUDA device {} was asked for, {} found", options.index, n_devices()));
  }
  return std::make_unique<CudaDeviceImpl>(options);
}

}  // namespace vernier
