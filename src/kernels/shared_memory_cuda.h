// The shared memory of a block whose size the launch gives.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace vernier::kernels::cuda {

__device__ inline std::byte* dynamic_shared() {
  extern __shared__ uint4 dynamic_shared_memory[];
  return reinterpret_cast<std::byte*>(dynamic_shared_memory);
}

}  // namespace vernier::kernels::cuda
