// The kernels of root-mean-square norms, whatever becomes of the results: a matrix
// (rms_norm_cuda.cu) or codes (rms_norm_encode_cuda.cu), from the same bits in both.
//
// A unit is one row, or one group of channels of one row. A warp (up to 1024 channels) or a block
// of 128 or 256 threads (up to 4096, 8192) takes a unit; each thread issues its reads, at most four
// packs of 8 channels of x and of the gate, before it uses the first, and keeps the values in
// registers until the mean square is known. Wider or unaligned units are passed over twice by
// single elements.
//
// Error: sums in FP32, at most 32 roundings deep in a thread (single elements: width / 128) and 13
// between threads; a SiLU of 5 ulp. The order of a sum depends on width and alignment alone.
#pragma once

#include <initializer_list>

#include "kernels/packs_cuda.h"
#include "kernels/silu_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {

inline constexpr int kNormPack = 8;
inline constexpr int kNormMaxPacks = 4;  // of a thread
inline constexpr int kNormMinBlock = 128;

struct NormUnits {
  int64_t n_units;
  int n_groups;  // of a row
  int width;     // channels of a unit
  const float* weight;
  float eps;
};

// Results as a matrix of Y. What a kernel asks of a sink:
//   store_pack   one pack; called by all threads of a warp, those with nothing to store included,
//   store_elems  kElems neighbours at once, where there are no packs.
template <class Y>
struct MatrixSink {
  static constexpr int kElems = 1;
  Rows<Y> y;

  __device__ void store_pack(int64_t row, int col, const float (&values)[kNormPack],
                             bool is_inside) const {
    if (!is_inside) return;
    Pack<Y, kNormPack> pack;
#pragma unroll
    for (int i = 0; i < kNormPack; ++i) pack.elems[i] = static_cast<Y>(values[i]);
    pack.store(y.at(row, col));
  }
  __device__ void store_elems(int64_t row, int col, const float (&values)[kElems]) const {
    *y.at(row, col) = static_cast<Y>(values[0]);
  }
};

// The sum over kThreads threads, the same bits in each.
template <int kThreads>
__device__ float sum_over_threads(float sum) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(~0u, sum, distance);
  }
  if constexpr (kThreads > 32) {
    __shared__ float warp_sums[kThreads / 32];
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
#pragma unroll
    for (const float each : warp_sums) sum += each;
  }
  return sum;
}

__device__ inline float norm_factor(const NormUnits& units, float sum) {
  return 1.0f / sqrtf(sum / static_cast<float>(units.width) + units.eps);
}

// kThreads threads of a block take a unit. kIsGated: x is multiplied by silu(gate) first.
template <class X, class Sink, bool kIsGated, int kThreads>
__global__ void __launch_bounds__(kThreads < kNormMinBlock ? kNormMinBlock : kThreads)
    normalize_packs(const NormUnits units, Rows<const X> x, Rows<const X> gate, const Sink sink) {
  constexpr int kPack = kNormPack;
  const int thread = threadIdx.x % kThreads;
  const int64_t unit =
      int64_t{blockIdx.x} * (blockDim.x / kThreads) + static_cast<int>(threadIdx.x) / kThreads;
  if (unit >= units.n_units) return;  // all threads of the unit
  const int64_t row = unit / units.n_groups;
  const int first_col = static_cast<int>(unit % units.n_groups) * units.width;
  const auto col_of = [&](int p) { return (p * kThreads + thread) * kPack; };

  Pack<X, kPack> packs[kNormMaxPacks];
  Pack<X, kPack> gates[kIsGated ? kNormMaxPacks : 1];
#pragma unroll
  for (int p = 0; p < kNormMaxPacks; ++p) {
    if (col_of(p) >= units.width) continue;
    packs[p] = Pack<X, kPack>::load(x.at(row, first_col + col_of(p)));
    if constexpr (kIsGated) {
      gates[p] = Pack<X, kPack>::load(gate.at(row, first_col + col_of(p)));
    }
  }
  float values[kNormMaxPacks][kPack];
  float sum = 0;
#pragma unroll
  for (int p = 0; p < kNormMaxPacks; ++p) {
    if (col_of(p) >= units.width) continue;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      values[p][i] = static_cast<float>(packs[p].elems[i]);
      if constexpr (kIsGated) values[p][i] *= silu(static_cast<float>(gates[p].elems[i]));
      sum += values[p][i] * values[p][i];
    }
  }
  const float factor = norm_factor(units, sum_over_threads<kThreads>(sum));
#pragma unroll
  for (int p = 0; p < kNormMaxPacks; ++p) {
    if (p * kThreads * kPack >= units.width) break;  // for all threads of the unit
    const bool is_inside = col_of(p) < units.width;
    float results[kPack] = {};
    if (is_inside) {
      const auto weight = Pack<float, kPack>::load(units.weight + first_col + col_of(p));
#pragma unroll
      for (int i = 0; i < kPack; ++i) results[i] = weight.elems[i] * (values[p][i] * factor);
    }
    sink.store_pack(row, first_col + col_of(p), results, is_inside);
  }
}

// A block takes a unit of any width and alignment. A thread writes only what it alone reads, so
// that a matrix of results may be x. REQUIRES: a width that is a multiple of the sink's kElems.
template <class X, class Sink, bool kIsGated>
__global__ void __launch_bounds__(kNormMinBlock)
    normalize_elems(const NormUnits units, Rows<const X> x, Rows<const X> gate, const Sink sink) {
  constexpr int kElems = Sink::kElems;
  const int64_t row = blockIdx.x / units.n_groups;
  const int first_col = static_cast<int>(blockIdx.x % units.n_groups) * units.width;
  const auto value_at = [&](int col) {
    float value = static_cast<float>(*x.at(row, col));
    if constexpr (kIsGated) value *= silu(static_cast<float>(*gate.at(row, col)));
    return value;
  };
  const int end = first_col + units.width;
  float sum = 0;
  for (int col = first_col + threadIdx.x; col < end; col += kNormMinBlock) {
    const float value = value_at(col);
    sum += value * value;
  }
  const float factor = norm_factor(units, sum_over_threads<kNormMinBlock>(sum));
  for (int col = first_col + threadIdx.x * kElems; col < end; col += kNormMinBlock * kElems) {
    float results[kElems];
#pragma unroll
    for (int i = 0; i < kElems; ++i) {
      results[i] = units.weight[col + i] * (value_at(col + i) * factor);
    }
    sink.store_elems(row, col, results);
  }
}

template <class X, bool kIsGated, class Sink>
void launch_norm(const NormUnits& units, bool is_in_packs, Rows<const X> x, Rows<const X> gate,
                 const Sink& sink, cudaStream_t stream) {
  constexpr int kMaxOfThread = kNormMaxPacks * kNormPack;
  if (units.n_units == 0 || units.width == 0) return;
  const auto queue = [&](auto kernel, int n_threads, int units_per_block) {
    const auto n_blocks =
        static_cast<unsigned>((units.n_units + units_per_block - 1) / units_per_block);
    kernel<<<n_blocks, n_threads, 0, stream>>>(units, x, gate, sink);
    check_launch();
  };
  if (!is_in_packs || units.width > 256 * kMaxOfThread) {
    queue(normalize_elems<X, Sink, kIsGated>, kNormMinBlock, 1);
  } else if (units.width <= 32 * kMaxOfThread) {
    queue(normalize_packs<X, Sink, kIsGated, 32>, kNormMinBlock, kNormMinBlock / 32);
  } else if (units.width <= 128 * kMaxOfThread) {
    queue(normalize_packs<X, Sink, kIsGated, 128>, 128, 1);
  } else {
    queue(normalize_packs<X, Sink, kIsGated, 256>, 256, 1);
  }
}

inline NormUnits norm_units(ConstAnyMatrixView x, VectorView<const float> weight, int64_t n_groups,
                            float eps) {
  return {x.rows * n_groups, static_cast<int>(n_groups), static_cast<int>(x.cols / n_groups),
          weight.data, eps};
}

// Whether packs cover every unit of these matrices.
inline bool has_norm_packs(const NormUnits& units,
                           std::initializer_list<ConstAnyMatrixView> matrices) {
  bool fits = units.width % kNormPack == 0 && reinterpret_cast<uintptr_t>(units.weight) % 16 == 0;
  for (const ConstAnyMatrixView& matrix : matrices) fits = fits && has_packs(matrix, kNormPack);
  return fits;
}

}  // namespace vernier::kernels::cuda
