// Root-mean-square norms on a device, bound by memory: x (and the gate) are read once, y is written
// once.
//
// A unit is one row, or one group of channels of one row. A warp (up to 1024 channels) or a block
// of 128 or 256 threads (up to 4096, 8192) takes a unit; each thread issues its reads, at most four
// packs of 8 channels of x and of the gate, before it uses the first, and keeps the values in
// registers until the mean square is known. Wider or unaligned units are passed over twice by
// single elements.
//
// 16384 tokens at 3 TB/s: rms_norm FP32 to BF16, 0.09 ms of 264 MB (Nano, 2688 channels), 0.13 ms
// of 403 MB (Super, 4096); gated_group_norm in BF16, 0.13 ms of 403 MB (Nano, 4096), 0.27 ms of 805
// MB (Super, 8192).
//
// Error: sums in FP32, at most 32 roundings deep in a thread (single elements: width / 128) and 13
// between threads; a SiLU of 5 ulp. The order of a sum depends on width and alignment alone.
#include "kernels/cuda.h"
#include "kernels/packs_cuda.h"
#include "kernels/silu_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kPack = 8;
constexpr int kMaxPacks = 4;  // of a thread
constexpr int kMinBlock = 128;

struct NormUnits {
  int64_t n_units;
  int n_groups;  // of a row
  int width;     // channels of a unit
  const float* weight;
  float eps;
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

__device__ float factor_of(const NormUnits& units, float sum) {
  return 1.0f / sqrtf(sum / static_cast<float>(units.width) + units.eps);
}

// kThreads threads of a block take a unit. kIsGated: x is multiplied by silu(gate) first.
template <class X, class Y, bool kIsGated, int kThreads>
__global__ void __launch_bounds__(kThreads < kMinBlock ? kMinBlock : kThreads)
    normalize_packs(const NormUnits units, Rows<const X> x, Rows<const X> gate, Rows<Y> y) {
  const int thread = threadIdx.x % kThreads;
  const int64_t unit =
      int64_t{blockIdx.x} * (blockDim.x / kThreads) + static_cast<int>(threadIdx.x) / kThreads;
  if (unit >= units.n_units) return;  // all threads of the unit
  const int64_t row = unit / units.n_groups;
  const int first_col = static_cast<int>(unit % units.n_groups) * units.width;
  const auto col_of = [&](int p) { return (p * kThreads + thread) * kPack; };

  Pack<X, kPack> packs[kMaxPacks];
  Pack<X, kPack> gates[kIsGated ? kMaxPacks : 1];
#pragma unroll
  for (int p = 0; p < kMaxPacks; ++p) {
    if (col_of(p) >= units.width) continue;
    packs[p] = Pack<X, kPack>::load(x.at(row, first_col + col_of(p)));
    if constexpr (kIsGated) {
      gates[p] = Pack<X, kPack>::load(gate.at(row, first_col + col_of(p)));
    }
  }
  float values[kMaxPacks][kPack];
  float sum = 0;
#pragma unroll
  for (int p = 0; p < kMaxPacks; ++p) {
    if (col_of(p) >= units.width) continue;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      values[p][i] = static_cast<float>(packs[p].elems[i]);
      if constexpr (kIsGated) values[p][i] *= silu(static_cast<float>(gates[p].elems[i]));
      sum += values[p][i] * values[p][i];
    }
  }
  const float factor = factor_of(units, sum_over_threads<kThreads>(sum));
#pragma unroll
  for (int p = 0; p < kMaxPacks; ++p) {
    if (col_of(p) >= units.width) continue;
    const auto weight = Pack<float, kPack>::load(units.weight + first_col + col_of(p));
    Pack<Y, kPack> result;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      result.elems[i] = static_cast<Y>(weight.elems[i] * (values[p][i] * factor));
    }
    result.store(y.at(row, first_col + col_of(p)));
  }
}

// A block takes a unit of any width and alignment. A thread writes only what it alone reads, so
// that y may be x.
template <class X, class Y, bool kIsGated>
__global__ void __launch_bounds__(kMinBlock)
    normalize_elems(const NormUnits units, Rows<const X> x, Rows<const X> gate, Rows<Y> y) {
  const int64_t row = blockIdx.x / units.n_groups;
  const int first_col = static_cast<int>(blockIdx.x % units.n_groups) * units.width;
  const auto value_at = [&](int col) {
    float value = static_cast<float>(*x.at(row, col));
    if constexpr (kIsGated) value *= silu(static_cast<float>(*gate.at(row, col)));
    return value;
  };
  const int end = first_col + units.width;
  float sum = 0;
  for (int col = first_col + threadIdx.x; col < end; col += kMinBlock) {
    const float value = value_at(col);
    sum += value * value;
  }
  const float factor = factor_of(units, sum_over_threads<kMinBlock>(sum));
  for (int col = first_col + threadIdx.x; col < end; col += kMinBlock) {
    *y.at(row, col) = static_cast<Y>(units.weight[col] * (value_at(col) * factor));
  }
}

template <class X, class Y, bool kIsGated>
void launch(const NormUnits& units, bool is_in_packs, Rows<const X> x, Rows<const X> gate,
            Rows<Y> y, cudaStream_t stream) {
  constexpr int kMaxOfThread = kMaxPacks * kPack;
  if (units.n_units == 0 || units.width == 0) return;
  const auto queue = [&](auto kernel, int n_threads, int units_per_block) {
    const auto n_blocks =
        static_cast<unsigned>((units.n_units + units_per_block - 1) / units_per_block);
    kernel<<<n_blocks, n_threads, 0, stream>>>(units, x, gate, y);
    check_launch();
  };
  if (!is_in_packs || units.width > 256 * kMaxOfThread) {
    queue(normalize_elems<X, Y, kIsGated>, kMinBlock, 1);
  } else if (units.width <= 32 * kMaxOfThread) {
    queue(normalize_packs<X, Y, kIsGated, 32>, kMinBlock, kMinBlock / 32);
  } else if (units.width <= 128 * kMaxOfThread) {
    queue(normalize_packs<X, Y, kIsGated, 128>, 128, 1);
  } else {
    queue(normalize_packs<X, Y, kIsGated, 256>, 256, 1);
  }
}

NormUnits units_of(ConstAnyMatrixView x, VectorView<const float> weight, int64_t n_groups,
                   float eps) {
  return {x.rows * n_groups, static_cast<int>(n_groups), static_cast<int>(x.cols / n_groups),
          weight.data, eps};
}

// Whether packs cover every unit of these matrices.
bool in_packs(const NormUnits& units, std::initializer_list<ConstAnyMatrixView> matrices) {
  bool fits = units.width % kPack == 0 && reinterpret_cast<uintptr_t>(units.weight) % 16 == 0;
  for (const ConstAnyMatrixView& matrix : matrices) fits = fits && has_packs(matrix, kPack);
  return fits;
}

}  // namespace

void rms_norm(ConstAnyMatrixView x, VectorView<const float> weight, float eps, AnyMatrixView y) {
  const NormUnits units = units_of(x, weight, 1, eps);
  with_element_type(x.dtype, [&]<class X>(X) {
    with_element_type(y.dtype, [&]<class Y>(Y) {
      launch<X, Y, false>(units, in_packs(units, {x, y}), rows_of<const X>(x), {}, rows_of<Y>(y),
                          stream_of(y.device));
    });
  });
}

void gated_group_norm(ConstAnyMatrixView x, ConstAnyMatrixView gate, VectorView<const float> weight,
                      int64_t n_groups, float eps, AnyMatrixView y) {
  const NormUnits units = units_of(x, weight, n_groups, eps);
  with_element_type(x.dtype, [&]<class T>(T) {
    launch<T, T, true>(units, in_packs(units, {x, gate, y}), rows_of<const T>(x),
                       rows_of<const T>(gate), rows_of<T>(y), stream_of(y.device));
  });
}

}  // namespace vernier::kernels::cuda
