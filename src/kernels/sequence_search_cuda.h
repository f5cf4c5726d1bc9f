// Which sequence of a launch's table a block belongs to.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace vernier::kernels::cuda {

// Of n sequences, the last whose `first`, a member that never falls, is not above `index`.
template <class Sequence, class First>
__device__ inline const Sequence& find_sequence(const Sequence* sequences, int32_t n,
                                                First Sequence::*first, int32_t index) {
  int32_t low = 0;
  int32_t high = n;
  while (high - low > 1) {
    const int32_t middle = (low + high) / 2;
    (sequences[middle].*first <= index ? low : high) = middle;
  }
  return sequences[low];
}

}  // namespace vernier::kernels::cuda
