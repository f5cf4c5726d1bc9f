// Partial sums added up on a device. A block takes 32 columns, so that a warp reads 128 bytes of a
// part; each of its 16 warps sums every sixteenth part, eight reads in flight, and the warps' sums
// are added in order. 1024 parts of 8192 columns: 34 MB, read once by 256 blocks.
#include "kernels/column_sums_cuda.h"

#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kCols = 32;
constexpr int kWarps = 16;

__global__ void __launch_bounds__(kCols* kWarps)
    add_parts(const PartialSums parts, float* sums, int64_t sum_stride) {
  __shared__ float warp_sums[kWarps][kCols];
  const int64_t col = int64_t{blockIdx.x} * kCols + threadIdx.x;
  float sum = 0;
  if (col < parts.n_cols) {
#pragma unroll 8
    for (int64_t part = threadIdx.y; part < parts.n_parts; part += kWarps) {
      sum += parts.data[part * parts.stride + col];
    }
  }
  warp_sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || col >= parts.n_cols) return;
  float total = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) total += warp_sums[warp][threadIdx.x];
  sums[col * sum_stride] += total;
}

}  // namespace

void add_column_sums(const PartialSums& parts, float* sums, int64_t sum_stride,
                     cudaStream_t stream) {
  if (parts.n_parts == 0 || parts.n_cols == 0) return;
  const auto n_blocks = static_cast<unsigned>((parts.n_cols + kCols - 1) / kCols);
  add_parts<<<n_blocks, dim3(kCols, kWarps), 0, stream>>>(parts, sums, sum_stride);
  check_launch();
}

}  // namespace vernier::kernels::cuda
