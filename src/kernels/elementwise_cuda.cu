// Pointwise maps over activations on a device, bound by memory: each element is read and written
// once, a thread takes one pack of 16 bytes (of BF16, which meets twice as many bytes of FP32), and
// a full processor has 32 KiB of them in flight. Matrices whose rows are not aligned go by single
// elements.
#include "kernels/cuda.h"
#include "kernels/packs_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

// op(row, first column) for every pack of N columns.
template <int N, class Op>
__global__ void for_each_pack(int64_t n_rows, int64_t n_cols, const Op op) {
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  const int64_t col = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * N;
  if (row < n_rows && col < n_cols) op(row, col);
}

template <int N, class Op>
void launch(Device* device, int64_t n_rows, int64_t n_cols, const Op& op) {
  if (n_rows == 0 || n_cols == 0) return;
  const PackGrid packs(n_rows, n_cols / N);
  const dim3 grid(static_cast<unsigned>(packs.n_row_blocks),
                  static_cast<unsigned>(packs.n_col_blocks));
  for_each_pack<N><<<grid, packs.block, 0, stream_of(device)>>>(n_rows, n_cols, op);
  check_launch();
}

// Elements of a pack: 16 bytes.
template <class T>
constexpr int kPack = 16 / static_cast<int>(sizeof(T));

template <class T, int N>
struct SquaredRelu {
  Rows<T> x;

  __device__ void operator()(int64_t row, int64_t col) const {
    auto pack = Pack<T, N>::load(x.at(row, col));
#pragma unroll
    for (T& elem : pack.elems) {
      elem = static_cast<T>(formats::squared_relu(static_cast<float>(elem)));
    }
    pack.store(x.at(row, col));
  }
};

template <class T>
struct SoftplusDt {
  Rows<const T> raw;
  const float* bias;
  float low, high;
  Rows<float> dt;

  __device__ void operator()(int64_t row, int64_t col) const {
    const float sum = static_cast<float>(*raw.at(row, col)) + bias[col];
    const float softplus = sum > 20.0f ? sum : log1pf(expf(sum));
    const float floored = softplus < low ? low : softplus;
    *dt.at(row, col) = high < floored ? high : floored;  // NaN stays
  }
};

template <class WordType>
struct GatherRows {
  Rows<const WordType> x;
  const int32_t* rows;
  Rows<WordType> y;

  __device__ void operator()(int64_t row, int64_t col) const {
    *y.at(row, col) = *x.at(rows[row], col);
  }
};

template <class T, int N>
struct Add {
  Rows<const T> x;
  Rows<float> y;

  __device__ void operator()(int64_t row, int64_t col) const {
    const auto added = Pack<T, N>::load(x.at(row, col));
    auto sum = Pack<float, N>::load(y.at(row, col));
#pragma unroll
    for (int i = 0; i < N; ++i) sum.elems[i] += static_cast<float>(added.elems[i]);
    sum.store(y.at(row, col));
  }
};

// The matrix's rows in words of another size.
template <class WordType, class View>
auto in_words(const View& matrix) {
  using Element = std::conditional_t<std::is_same_v<View, AnyMatrixView>, WordType, const WordType>;
  return Rows<Element>{
      static_cast<Element*>(matrix.data),
      matrix.row_stride * matrix.elem_bytes() / static_cast<int64_t>(sizeof(WordType))};
}

template <class WordType>
void gather_words(ConstAnyMatrixView x, VectorView<const int32_t> rows, AnyMatrixView y) {
  const int64_t n_words = y.cols * y.elem_bytes() / static_cast<int64_t>(sizeof(WordType));
  launch<1>(y.device, y.rows, n_words,
            GatherRows<WordType>{in_words<WordType>(x), rows.data, in_words<WordType>(y)});
}

// Bits of magnitudes order as the magnitudes do, and NaN and infinity are the largest of all. The
// maximum of integers does not depend on the order in which blocks come.
constexpr int kAmaxWarps = 8;

template <class T, int N>
__global__ void amax_of(Rows<const T> x, int64_t n_rows, int64_t n_cols, unsigned* amax) {
  __shared__ unsigned warp_amax[kAmaxWarps];
  unsigned largest = 0;
  for (int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y; row < n_rows;
       row += int64_t{gridDim.x} * blockDim.y) {
#pragma unroll 4
    for (int64_t col = int64_t{threadIdx.x} * N; col < n_cols; col += int64_t{blockDim.x} * N) {
      const auto pack = Pack<T, N>::load(x.at(row, col));
#pragma unroll
      for (const T& elem : pack.elems) {
        largest = max(largest, __float_as_uint(static_cast<float>(elem)) & 0x7FFFFFFFu);
      }
    }
  }
  const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
  largest = __reduce_max_sync(~0u, largest);
  if (thread % 32 == 0) warp_amax[thread / 32] = largest;
  __syncthreads();
  if (thread != 0) return;
  for (const unsigned each : warp_amax) largest = max(largest, each);
  atomicMax(amax, largest);
}

template <class T, int N>
void launch_amax(ConstAnyMatrixView x, VectorView<float> amax) {
  const PackGrid packs(x.rows, x.cols / N);
  const int64_t enough = 8 * vernier::cuda(x.device).properties().multiProcessorCount;
  const auto n_blocks = static_cast<unsigned>(std::min(packs.n_row_blocks, enough));
  amax_of<T, N><<<n_blocks, packs.block, 0, stream_of(x.device)>>>(
      rows_of<const T>(x), x.rows, x.cols, reinterpret_cast<unsigned*>(amax.data));
  check_launch();
}

}  // namespace

void squared_relu(AnyMatrixView x) {
  with_element_type(x.dtype, [&](auto element) {
    using T = decltype(element);
    if (has_packs(x, kPack<T>)) {
      launch<kPack<T>>(x.device, x.rows, x.cols, SquaredRelu<T, kPack<T>>{rows_of<T>(x)});
    } else {
      launch<1>(x.device, x.rows, x.cols, SquaredRelu<T, 1>{rows_of<T>(x)});
    }
  });
}

void softplus_dt(ConstAnyMatrixView raw, VectorView<const float> bias, float low, float high,
                 AnyMatrixView dt) {
  with_element_type(raw.dtype, [&](auto element) {
    using T = decltype(element);
    launch<1>(dt.device, dt.rows, dt.cols,
              SoftplusDt<T>{rows_of<const T>(raw), bias.data, low, high, rows_of<float>(dt)});
  });
}

void gather_rows(ConstAnyMatrixView x, VectorView<const int32_t> rows, AnyMatrixView y) {
  const int64_t pack = 16 / y.elem_bytes();
  if (has_packs(x, pack) && has_packs(y, pack)) return gather_words<uint4>(x, rows, y);
  if (y.dtype == DType::kBF16) return gather_words<uint16_t>(x, rows, y);
  gather_words<uint32_t>(x, rows, y);
}

void add(ConstAnyMatrixView x, AnyMatrixView y) {
  with_element_type(x.dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kColumns = kPack<T>;
    if (has_packs(x, kColumns) && has_packs(y, kColumns)) {
      launch<kColumns>(y.device, y.rows, y.cols,
                       Add<T, kColumns>{rows_of<const T>(x), rows_of<float>(y)});
    } else {
      launch<1>(y.device, y.rows, y.cols, Add<T, 1>{rows_of<const T>(x), rows_of<float>(y)});
    }
  });
}

void accumulate_amax(ConstAnyMatrixView x, VectorView<float> amax) {
  if (x.rows == 0 || x.cols == 0) return;
  with_element_type(x.dtype, [&](auto element) {
    using T = decltype(element);
    if (has_packs(x, kPack<T>)) {
      launch_amax<T, kPack<T>>(x, amax);
    } else {
      launch_amax<T, 1>(x, amax);
    }
  });
}

}  // namespace vernier::kernels::cuda
