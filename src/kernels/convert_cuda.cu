// Conversions: a thread takes 8 neighbours of a row, 16 or 32 bytes at a time where the rows are
// aligned so; 6 bytes of traffic an element. Rows lie along the grid's x, since there may be
// millions of them.
#include "kernels/convert_cuda.h"

#include <cuda_bf16.h>

#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kElems = 8;
constexpr int kThreads = 256;

template <class T>
struct alignas(16) Pack {
  T elems[kElems];
};

__device__ float to(float, __nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __nv_bfloat16 to(__nv_bfloat16, float value) { return __float2bfloat16_rn(value); }
template <class T>
__device__ T to(T, T value) {
  return value;
}

template <bool kIsAligned, class From, class To>
__global__ void convert_kernel(const From* from, int64_t from_stride, To* out, int64_t out_stride,
                               int64_t cols, int64_t n_packs, int64_t row_packs) {
  const int64_t index = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (index >= n_packs) return;
  const int64_t row = index / row_packs;
  const int64_t col = index % row_packs * kElems;
  from += row * from_stride + col;
  out += row * out_stride + col;
  if (kIsAligned && col + kElems <= cols) {
    const Pack<From> source = *reinterpret_cast<const Pack<From>*>(from);
    Pack<To> result;
#pragma unroll
    for (int elem = 0; elem < kElems; ++elem) result.elems[elem] = to(To{}, source.elems[elem]);
    *reinterpret_cast<Pack<To>*>(out) = result;
  } else {
    for (int elem = 0; elem < kElems && col + elem < cols; ++elem) {
      out[elem] = to(To{}, from[elem]);
    }
  }
}

bool has_aligned_rows(ConstAnyMatrixView matrix) {
  return reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 &&
         matrix.row_stride * matrix.elem_bytes() % 16 == 0;
}

template <class From, class To>
void launch(ConstAnyMatrixView from, AnyMatrixView out) {
  const int64_t row_packs = (from.cols + kElems - 1) / kElems;
  const int64_t n_packs = from.rows * row_packs;
  if (n_packs == 0) return;
  const auto n_blocks = static_cast<unsigned>((n_packs + kThreads - 1) / kThreads);
  const bool is_aligned = has_aligned_rows(from) && has_aligned_rows(out);
  const auto kernel = is_aligned ? convert_kernel<true, From, To> : convert_kernel<false, From, To>;
  kernel<<<n_blocks, kThreads, 0, stream_of(out.device)>>>(
      static_cast<const From*>(from.data), from.row_stride, static_cast<To*>(out.data),
      out.row_stride, from.cols, n_packs, row_packs);
  check_launch();
}

template <class From>
void convert_from(ConstAnyMatrixView from, AnyMatrixView out) {
  if (out.dtype == DType::kF32) {
    launch<From, float>(from, out);
  } else {
    VERNIER_CHECK(out.dtype == DType::kBF16);
    launch<From, __nv_bfloat16>(from, out);
  }
}

}  // namespace

void convert(ConstAnyMatrixView from, AnyMatrixView out) {
  VERNIER_CHECK(from.rows == out.rows && from.cols == out.cols);
  if (from.dtype == DType::kF32) {
    convert_from<float>(from, out);
  } else {
    VERNIER_CHECK(from.dtype == DType::kBF16);
    convert_from<__nv_bfloat16>(from, out);
  }
}

ConstAnyMatrixView as_dtype(ConstAnyMatrixView matrix, DType dtype, AnyMatrix& scratch) {
  if (matrix.dtype == dtype) return matrix;
  scratch = AnyMatrix(matrix.rows, matrix.cols, dtype, matrix.device);
  convert(matrix, scratch);
  return scratch.view();
}

}  // namespace vernier::kernels::cuda
