// The second step of sums over rows on a device: blocks of an op leave partial sums of their rows,
// which are added here in an order that does not depend on how blocks ran.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace vernier::kernels::cuda {

// [n_parts, n_cols], parts `stride` elements apart.
struct PartialSums {
  const float* data;
  int64_t n_parts;
  int64_t stride;
  int64_t n_cols;
};

// sums[col * sum_stride] += the column's parts, in an order that n_parts alone decides.
void add_column_sums(const PartialSums& parts, float* sums, int64_t sum_stride,
                     cudaStream_t stream);

}  // namespace vernier::kernels::cuda
