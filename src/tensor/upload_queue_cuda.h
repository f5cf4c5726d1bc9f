// Uploads through page-locked staging buffers; device_cuda.cc makes them.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>

#include "tensor/device_cuda.h"

namespace vernier {

// `bytes` from the pool in the stream's order. Throws OutOfMemory with the numbers of `memory`.
std::byte* allocate_from(cudaMemPool_t pool, int64_t bytes, cudaStream_t stream,
                         const std::function<DeviceMemory()>& memory);

std::unique_ptr<UploadQueue> new_cuda_upload_queue(CudaDevice& device, int index,
                                                   cudaMemPool_t pool, int n_threads);

}  // namespace vernier
