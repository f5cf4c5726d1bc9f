// What CUDA code sees of a device: its stream and checks of the runtime's answers.
#pragma once

#include <cuda_runtime_api.h>

#include "tensor/device.h"

namespace vernier {

// Throws OutOfMemory or Environment with the call and CUDA's own words unless `status` is success.
void check_cuda(cudaError_t status, const char* call);
#define VERNIER_CUDA(call) ::vernier::check_cuda((call), #call)
// After a kernel launch.
inline void check_launch() { check_cuda(cudaGetLastError(), "kernel launch"); }

class CudaDevice : public Device {
 public:
  virtual cudaStream_t stream() const = 0;
  virtual const cudaDeviceProp& properties() const = 0;
};

// REQUIRES: not the host.
inline CudaDevice& cuda(Device* device) { return *static_cast<CudaDevice*>(device); }
inline cudaStream_t stream_of(Device* device) { return cuda(device).stream(); }

}  // namespace vernier
