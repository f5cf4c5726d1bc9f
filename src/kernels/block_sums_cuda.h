// Reductions over the threads of a block of whole warps, in a fixed order.
#pragma once

#include <cuda_runtime.h>

namespace vernier::kernels::cuda {

// The sum of all threads' values, in every thread. All threads of the block, kWarps warps, call it.
template <int kWarps>
__device__ double sum_of_block(double value) {
  __shared__ double warps[kWarps];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  __syncthreads();  // the memory may be in use from a call before
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  double total = 0;
  for (const double each : warps) total += each;
  return total;
}

}  // namespace vernier::kernels::cuda
