// Rows of BF16 or FP32 read and written as FP32, a pack of columns at once: what device ops that
// pass over rows share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "tensor/any_matrix.h"

namespace vernier::kernels::cuda {

// Calls body(T{}) with the type of activations.
template <class Body>
void with_element_type(DType dtype, Body body) {
  if (dtype == DType::kBF16) {
    body(__nv_bfloat16{});
  } else {
    body(float{});
  }
}

// A matrix as a kernel sees it.
template <class T>
struct Rows {
  T* data;
  int64_t stride;

  __device__ T* at(int64_t row, int64_t col) const { return data + row * stride + col; }
};

template <class T>
Rows<T> rows_of(ConstAnyMatrixView matrix) requires(std::is_const_v<T>) {
  return {static_cast<T*>(matrix.data), matrix.row_stride};
}
template <class T>
Rows<T> rows_of(AnyMatrixView matrix) requires(!std::is_const_v<T>) {
  return {static_cast<T*>(matrix.data), matrix.row_stride};
}

// Whether packs of n columns cover the matrix and lie at addresses that one or several loads of 16
// bytes take.
inline bool has_packs(ConstAnyMatrixView matrix, int64_t n) {
  const int64_t bytes = std::min<int64_t>(16, n * matrix.elem_bytes());
  return matrix.cols % n == 0 && matrix.row_stride * matrix.elem_bytes() % bytes == 0 &&
         reinterpret_cast<uintptr_t>(matrix.data) % static_cast<uint64_t>(bytes) == 0;
}

// What one load instruction takes.
template <int kBytes>
using Word = std::conditional_t<
    kBytes % 16 == 0, uint4,
    std::conditional_t<kBytes == 8, uint2, std::conditional_t<kBytes == 4, uint32_t, uint16_t>>>;

// N elements in registers.
template <class T, int N>
struct Pack {
  using Words = Word<static_cast<int>(sizeof(T)) * N>;
  static constexpr int kWords = static_cast<int>(sizeof(T)) * N / static_cast<int>(sizeof(Words));

  T elems[N];

  __device__ static Pack load(const T* from) {
    Words words[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = reinterpret_cast<const Words*>(from)[i];
    Pack pack;
    memcpy(pack.elems, words, sizeof(words));
    return pack;
  }
  __device__ void store(T* to) const {
    Words words[kWords];
    memcpy(words, elems, sizeof(words));
#pragma unroll
    for (int i = 0; i < kWords; ++i) reinterpret_cast<Words*>(to)[i] = words[i];
  }
};

// How threads of a block fall onto a matrix's packs: threads of a row side by side, rows one below
// the other.
struct PackGrid {
  dim3 block;
  int64_t n_row_blocks;
  int64_t n_col_blocks;

  PackGrid(int64_t n_rows, int64_t n_packs) {
    constexpr unsigned kThreads = 256;
    unsigned width = 1;
    while (width < kThreads && width < n_packs) width *= 2;
    block = dim3(width, kThreads / width);
    n_row_blocks = (n_rows + block.y - 1) / block.y;
    n_col_blocks = (n_packs + width - 1) / width;
  }
};

}  // namespace vernier::kernels::cuda
