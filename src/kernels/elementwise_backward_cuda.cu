// Gradients of pointwise maps on a device, bound by memory: each element is read and written once.
//
// squared_relu_backward: a thread takes one pack of 16 bytes of both matrices; rows that are not
// aligned go by single elements.
//
// softplus_dt_backward: these matrices are as narrow as the heads are few. A block takes 32 heads
// of 64 tokens, a warp a token at a time, so that the bias's gradient is summed in registers, then
// over the block's 8 warps in order; add_column_sums adds up the blocks. 16384 tokens x 128 heads:
// 17 MB, 1024 blocks, 0.13 MB of partial sums.
#include "kernels/column_sums_cuda.h"
#include "kernels/cuda.h"
#include "kernels/packs_cuda.h"
#include "kernels/sigmoid.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

template <class T, int N>
__global__ void scale_by_slope(int64_t n_rows, int64_t n_cols, Rows<const T> x, Rows<T> g) {
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  const int64_t col = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * N;
  if (row >= n_rows || col >= n_cols) return;
  const auto values = Pack<T, N>::load(x.at(row, col));
  auto gradients = Pack<T, N>::load(g.at(row, col));
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float value = static_cast<float>(values.elems[i]);
    const float positive = value < 0.0f ? 0.0f : value;  // NaN stays
    gradients.elems[i] = static_cast<T>(static_cast<float>(gradients.elems[i]) * (2.0f * positive));
  }
  gradients.store(g.at(row, col));
}

template <class T, int N>
void launch_slope(ConstAnyMatrixView x, AnyMatrixView g) {
  const PackGrid packs(x.rows, x.cols / N);
  const dim3 grid(static_cast<unsigned>(packs.n_row_blocks),
                  static_cast<unsigned>(packs.n_col_blocks));
  scale_by_slope<T, N><<<grid, packs.block, 0, stream_of(g.device)>>>(
      x.rows, x.cols, rows_of<const T>(x), rows_of<T>(g));
  check_launch();
}

constexpr int kHeads = 32;  // of a block
constexpr int kWarps = 8;
constexpr int kTokens = 64;

template <class T>
struct SoftplusGradient {
  int64_t n_rows;
  int64_t n_cols;
  Rows<const T> raw;
  const float* bias;
  float low, high;
  Rows<const float> g_dt;
  Rows<T> g_raw;
  float* parts;  // [blocks of tokens, heads] of the bias's gradient, or null

  // The gradient of raw + bias, whose value is s.
  __device__ float gradient(float s, float g) const {
    const float softplus = s > 20.0f ? s : log1pf(expf(s));
    const float slope = s > 20.0f ? 1.0f : sigmoid_of(s).value;
    return softplus < low || high < softplus ? 0.0f : g * slope;
  }
};

template <class T>
__global__ void __launch_bounds__(kHeads* kWarps) softplus_backward(const SoftplusGradient<T> op) {
  __shared__ float warp_sums[kWarps][kHeads];
  const int64_t col = int64_t{blockIdx.y} * kHeads + threadIdx.x;
  const int64_t first = int64_t{blockIdx.x} * kTokens;
  const int64_t end = min(op.n_rows, first + kTokens);
  float sum = 0;
  if (col < op.n_cols) {
    const float bias = op.bias[col];
    for (int64_t row = first + threadIdx.y; row < end; row += kWarps) {
      const float s = static_cast<float>(*op.raw.at(row, col)) + bias;
      const float gradient = op.gradient(s, *op.g_dt.at(row, col));
      *op.g_raw.at(row, col) = static_cast<T>(gradient);
      sum += gradient;
    }
  }
  if (op.parts == nullptr) return;
  warp_sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || col >= op.n_cols) return;
  float total = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) total += warp_sums[warp][threadIdx.x];
  op.parts[blockIdx.x * op.n_cols + col] = total;
}

}  // namespace

void squared_relu_backward(ConstAnyMatrixView x, AnyMatrixView g) {
  if (x.rows == 0 || x.cols == 0) return;
  with_element_type(x.dtype, [&]<class T>(T) {
    constexpr int kPack = 16 / static_cast<int>(sizeof(T));
    if (has_packs(x, kPack) && has_packs(g, kPack)) return launch_slope<T, kPack>(x, g);
    launch_slope<T, 1>(x, g);
  });
}

void softplus_dt_backward(ConstAnyMatrixView raw, VectorView<const float> bias, float low,
                          float high, ConstAnyMatrixView g_dt, AnyMatrixView g_raw,
                          VectorView<float> g_bias) {
  if (raw.rows == 0 || raw.cols == 0) return;
  const int64_t n_parts = (raw.rows + kTokens - 1) / kTokens;
  const int64_t n_head_blocks = (raw.cols + kHeads - 1) / kHeads;
  Vector<float> parts(g_bias.empty() ? 0 : n_parts * raw.cols, raw.device);
  const cudaStream_t stream = stream_of(raw.device);
  with_element_type(raw.dtype, [&]<class T>(T) {
    const SoftplusGradient<T> op{raw.rows,
                                 raw.cols,
                                 rows_of<const T>(raw),
                                 bias.data,
                                 low,
                                 high,
                                 rows_of<const float>(g_dt),
                                 rows_of<T>(g_raw),
                                 g_bias.empty() ? nullptr : parts.view().data};
    const dim3 grid(static_cast<unsigned>(n_parts), static_cast<unsigned>(n_head_blocks));
    softplus_backward<T><<<grid, dim3(kHeads, kWarps), 0, stream>>>(op);
    check_launch();
  });
  if (g_bias.empty()) return;
  add_column_sums({parts.view().data, n_parts, raw.cols, raw.cols}, g_bias.data, 1, stream);
}

}  // namespace vernier::kernels::cuda
