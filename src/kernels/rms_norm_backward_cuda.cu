// Gradients of root-mean-square norms on a device, bound by memory: x, g_y (and the gate) are read
// once, g_x (and g_gate) written once; the plain norm's g_x, which is added to, is read as well.
//
// A block takes one group of channels (all channels: one group) of a run of rows, row after row.
// Each thread owns up to two packs of 8 channels, issues all reads of a row before it uses the
// first, and keeps the values in registers until the row's two sums, of q^2 and of w g_y q, are
// known; its part of the weight's gradient stays in registers over the run. The runs' parts, at
// most 1024 for each channel, are added by add_column_sums. Wider or unaligned groups are passed
// over twice by single elements, their parts kept in memory.
//
// 16384 tokens at 3 TB/s: rms_norm_backward of an FP32 x and a BF16 g_y, 0.21 ms of 617 MB (Nano,
// 2688 channels), 0.31 ms of 940 MB (Super, 4096); gated_group_norm_backward in BF16, 0.45 ms of
// 1.34 GB (Super, 8192).
//
// Error: sums in FP32, at most 16 roundings deep in a thread (single elements: width / 128) and 21
// between threads; a run's part of the weight's gradient rows / 1024 deep. The order of a sum
// depends on shapes and alignment alone.
#include "kernels/column_sums_cuda.h"
#include "kernels/cuda.h"
#include "kernels/packs_cuda.h"
#include "kernels/sigmoid.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kPack = 8;
constexpr int kMaxPacks = 2;  // of a thread
constexpr int kElemThreads = 128;
constexpr int64_t kMinRunRows = 4;
constexpr int64_t kMaxRuns = 1024;

struct NormGradient {
  int64_t n_rows;
  int64_t run_rows;
  int n_groups;
  int width;  // channels of a group
  const float* weight;
  float eps;
  float* parts;  // [runs, channels] of the weight's gradient, or null

  __device__ int64_t run() const { return blockIdx.x / n_groups; }
  __device__ int first_col() const { return static_cast<int>(blockIdx.x % n_groups) * width; }
  __device__ int64_t first_row() const { return run() * run_rows; }
  __device__ int64_t end_row() const { return min(n_rows, first_row() + run_rows); }
  // The run's part for a channel of its group.
  __device__ float* part(int col) const {
    return parts + run() * (int64_t{n_groups} * width) + first_col() + col;
  }
};

// What is normalized and its derivatives.
struct Value {
  float q, by_x, by_gate;
};
template <bool kIsGated>
__device__ Value value_of(float x, float gate) {
  if constexpr (!kIsGated) return {x, 1.0f, 0.0f};
  const Silu silu = silu_of(gate);
  return {x * silu.value, silu.value, x * silu.slope};
}

struct RowSums {
  float squares = 0;  // of q
  float product = 0;  // of w g_y and q

  __device__ void take(float q, float weighted) {
    squares += q * q;
    product += weighted * q;
  }
};

// The sums over kThreads threads, the same bits in each. `buffer` alternates between 0 and 1: a
// buffer is written again only after a barrier that follows all its readers.
template <int kThreads>
__device__ RowSums sum_over_threads(RowSums sums, int buffer) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    sums.squares += __shfl_xor_sync(~0u, sums.squares, distance);
    sums.product += __shfl_xor_sync(~0u, sums.product, distance);
  }
  if constexpr (kThreads > 32) {
    __shared__ float2 warp_sums[2][kThreads / 32];
    if (threadIdx.x % 32 == 0) {
      warp_sums[buffer][threadIdx.x / 32] = make_float2(sums.squares, sums.product);
    }
    __syncthreads();
    sums = {};
#pragma unroll
    for (const float2& each : warp_sums[buffer]) {
      sums.squares += each.x;
      sums.product += each.y;
    }
  }
  return sums;
}

// g_q = root (w g_y - q shrink).
struct Factors {
  float root;    // r = 1 / rms(q)
  float shrink;  // r^2 mean(w g_y q)

  __device__ Factors(const NormGradient& norm, RowSums sums)
      : root(1.0f / sqrtf(sums.squares / static_cast<float>(norm.width) + norm.eps)),
        shrink(root * root * sums.product / static_cast<float>(norm.width)) {}
  __device__ float g_q(float weighted, float q) const { return root * (weighted - q * shrink); }
};

// The matrices; G is the type of g_y, GX that of g_x.
template <class X, class G, class GX>
struct NormMatrices {
  Rows<const X> x;
  Rows<const X> gate;
  Rows<const G> g_y;
  Rows<GX> g_x;
  Rows<X> g_gate;
};

// What a thread has of one row.
template <class X, class G, bool kIsGated>
struct RowPacks {
  static constexpr int kGates = kIsGated ? kMaxPacks : 1;
  Pack<X, kPack> x[kMaxPacks];
  Pack<X, kPack> gate[kGates];
  Pack<G, kPack> g_y[kMaxPacks];
  Pack<float, kPack> g_x[kIsGated ? 1 : kMaxPacks];  // what is added to

  __device__ Value value(int p, int i) const {
    const float z = kIsGated ? static_cast<float>(gate[p % kGates].elems[i]) : 0.0f;
    return value_of<kIsGated>(static_cast<float>(x[p].elems[i]), z);
  }
};

template <class X, class G, class GX, bool kIsGated, int kThreads>
__global__ void __launch_bounds__(kThreads)
    backward_packs(const NormGradient norm, const NormMatrices<X, G, GX> matrices) {
  const int first_col = norm.first_col();
  const auto col_of = [&](int p) { return (p * kThreads + static_cast<int>(threadIdx.x)) * kPack; };
  Pack<float, kPack> weights[kMaxPacks];
  Pack<float, kPack> g_weights[kMaxPacks] = {};
#pragma unroll
  for (int p = 0; p < kMaxPacks; ++p) {
    if (col_of(p) >= norm.width) continue;
    weights[p] = Pack<float, kPack>::load(norm.weight + first_col + col_of(p));
  }
  for (int64_t row = norm.first_row(); row < norm.end_row(); ++row) {
    RowPacks<X, G, kIsGated> read;
#pragma unroll
    for (int p = 0; p < kMaxPacks; ++p) {
      if (col_of(p) >= norm.width) continue;
      const int col = first_col + col_of(p);
      read.x[p] = Pack<X, kPack>::load(matrices.x.at(row, col));
      read.g_y[p] = Pack<G, kPack>::load(matrices.g_y.at(row, col));
      if constexpr (kIsGated) {
        read.gate[p] = Pack<X, kPack>::load(matrices.gate.at(row, col));
      } else {
        read.g_x[p] = Pack<float, kPack>::load(matrices.g_x.at(row, col));
      }
    }
    RowSums sums;
#pragma unroll
    for (int p = 0; p < kMaxPacks; ++p) {
      if (col_of(p) >= norm.width) continue;
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        sums.take(read.value(p, i).q,
                  weights[p].elems[i] * static_cast<float>(read.g_y[p].elems[i]));
      }
    }
    const Factors factors(norm, sum_over_threads<kThreads>(sums, static_cast<int>(row % 2)));
#pragma unroll
    for (int p = 0; p < kMaxPacks; ++p) {
      if (col_of(p) >= norm.width) continue;
      Pack<GX, kPack> g_x;
      Pack<X, kPack> g_gate;
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        const Value value = read.value(p, i);
        const float g = static_cast<float>(read.g_y[p].elems[i]);
        g_weights[p].elems[i] += g * (value.q * factors.root);
        const float g_q = factors.g_q(weights[p].elems[i] * g, value.q);
        if constexpr (kIsGated) {
          g_x.elems[i] = static_cast<GX>(g_q * value.by_x);
          g_gate.elems[i] = static_cast<X>(g_q * value.by_gate);
        } else {
          g_x.elems[i] = read.g_x[p].elems[i] + g_q;
        }
      }
      g_x.store(matrices.g_x.at(row, first_col + col_of(p)));
      if constexpr (kIsGated) g_gate.store(matrices.g_gate.at(row, first_col + col_of(p)));
    }
  }
  if (norm.parts == nullptr) return;
#pragma unroll
  for (int p = 0; p < kMaxPacks; ++p) {
    if (col_of(p) < norm.width) g_weights[p].store(norm.part(col_of(p)));
  }
}

// Groups of any width and alignment. A thread writes only what it alone reads, so that g_x may be
// g_y.
template <class X, class G, class GX, bool kIsGated>
__global__ void __launch_bounds__(kElemThreads)
    backward_elems(const NormGradient norm, const NormMatrices<X, G, GX> matrices) {
  const int first_col = norm.first_col();
  const auto value_at = [&](int64_t row, int col) {
    float gate = 0;
    if constexpr (kIsGated) gate = static_cast<float>(*matrices.gate.at(row, first_col + col));
    return value_of<kIsGated>(static_cast<float>(*matrices.x.at(row, first_col + col)), gate);
  };
  for (int64_t row = norm.first_row(); row < norm.end_row(); ++row) {
    RowSums sums;
    for (int col = threadIdx.x; col < norm.width; col += kElemThreads) {
      const float g = static_cast<float>(*matrices.g_y.at(row, first_col + col));
      sums.take(value_at(row, col).q, norm.weight[first_col + col] * g);
    }
    const Factors factors(norm, sum_over_threads<kElemThreads>(sums, static_cast<int>(row % 2)));
    for (int col = threadIdx.x; col < norm.width; col += kElemThreads) {
      const Value value = value_at(row, col);
      const float g = static_cast<float>(*matrices.g_y.at(row, first_col + col));
      const float g_q = factors.g_q(norm.weight[first_col + col] * g, value.q);
      GX* g_x = matrices.g_x.at(row, first_col + col);
      if constexpr (kIsGated) {
        *g_x = static_cast<GX>(g_q * value.by_x);
        *matrices.g_gate.at(row, first_col + col) = static_cast<X>(g_q * value.by_gate);
      } else {
        *g_x += g_q;
      }
      if (norm.parts == nullptr) continue;
      const float before = row == norm.first_row() ? 0.0f : *norm.part(col);
      *norm.part(col) = before + g * (value.q * factors.root);
    }
  }
}

template <class X, class G, class GX, bool kIsGated>
void launch(const NormGradient& norm, int64_t n_runs, bool is_in_packs,
            const NormMatrices<X, G, GX>& matrices, cudaStream_t stream) {
  constexpr int kMaxOfThread = kMaxPacks * kPack;
  const auto queue = [&](auto kernel, int n_threads) {
    const auto n_blocks = static_cast<unsigned>(n_runs * norm.n_groups);
    kernel<<<n_blocks, n_threads, 0, stream>>>(norm, matrices);
    check_launch();
  };
  if (!is_in_packs || norm.width > 512 * kMaxOfThread) {
    queue(backward_elems<X, G, GX, kIsGated>, kElemThreads);
  } else if (norm.width <= 32 * kMaxOfThread) {
    queue(backward_packs<X, G, GX, kIsGated, 32>, 32);
  } else if (norm.width <= 64 * kMaxOfThread) {
    queue(backward_packs<X, G, GX, kIsGated, 64>, 64);
  } else if (norm.width <= 128 * kMaxOfThread) {
    queue(backward_packs<X, G, GX, kIsGated, 128>, 128);
  } else if (norm.width <= 256 * kMaxOfThread) {
    queue(backward_packs<X, G, GX, kIsGated, 256>, 256);
  } else {
    queue(backward_packs<X, G, GX, kIsGated, 512>, 512);
  }
}

// Whether packs cover every group of these matrices.
bool in_packs(int64_t width, const float* weight,
              std::initializer_list<ConstAnyMatrixView> matrices) {
  bool fits = width % kPack == 0 && reinterpret_cast<uintptr_t>(weight) % 16 == 0;
  for (const ConstAnyMatrixView& matrix : matrices) fits = fits && has_packs(matrix, kPack);
  return fits;
}

// Calls body(norm, n_runs) and adds up the parts of the weight's gradient that it leaves.
template <class Body>
void with_runs(ConstAnyMatrixView x, VectorView<const float> weight, int64_t n_groups, float eps,
               VectorView<float> g_weight, Body body) {
  if (x.rows == 0 || x.cols == 0) return;
  const int64_t run_rows = std::max(kMinRunRows, (x.rows + kMaxRuns - 1) / kMaxRuns);
  const int64_t n_runs = (x.rows + run_rows - 1) / run_rows;
  Vector<float> parts(g_weight.empty() ? 0 : n_runs * x.cols, x.device);
  const NormGradient norm{.n_rows = x.rows,
                          .run_rows = run_rows,
                          .n_groups = static_cast<int>(n_groups),
                          .width = static_cast<int>(x.cols / n_groups),
                          .weight = weight.data,
                          .eps = eps,
                          .parts = g_weight.empty() ? nullptr : parts.view().data};
  body(norm, n_runs);
  if (g_weight.empty()) return;
  add_column_sums({norm.parts, n_runs, x.cols, x.cols}, g_weight.data, 1, stream_of(x.device));
}

}  // namespace

void rms_norm_backward(ConstAnyMatrixView x, VectorView<const float> weight, float eps,
                       ConstAnyMatrixView g_y, AnyMatrixView g_x, VectorView<float> g_weight) {
  const bool is_in_packs = in_packs(x.cols, weight.data, {x, g_y, g_x});
  with_runs(x, weight, 1, eps, g_weight, [&](const NormGradient& norm, int64_t n_runs) {
    with_element_type(x.dtype, [&]<class X>(X) {
      with_element_type(g_y.dtype, [&]<class G>(G) {
        const NormMatrices<X, G, float> matrices{
            rows_of<const X>(x), {}, rows_of<const G>(g_y), rows_of<float>(g_x), {}};
        launch<X, G, float, false>(norm, n_runs, is_in_packs, matrices, stream_of(g_x.device));
      });
    });
  });
}

void gated_group_norm_backward(ConstAnyMatrixView x, ConstAnyMatrixView gate,
                               VectorView<const float> weight, int64_t n_groups, float eps,
                               ConstAnyMatrixView g_y, AnyMatrixView g_x, AnyMatrixView g_gate,
                               VectorView<float> g_weight) {
  const bool is_in_packs = in_packs(x.cols / n_groups, weight.data, {x, gate, g_y, g_x, g_gate});
  with_runs(x, weight, n_groups, eps, g_weight, [&](const NormGradient& norm, int64_t n_runs) {
    with_element_type(x.dtype, [&]<class T>(T) {
      const NormMatrices<T, T, T> matrices{rows_of<const T>(x), rows_of<const T>(gate),
                                           rows_of<const T>(g_y), rows_of<T>(g_x),
                                           rows_of<T>(g_gate)};
      launch<T, T, T, true>(norm, n_runs, is_in_packs, matrices, stream_of(g_x.device));
    });
  });
}

}  // namespace vernier::kernels::cuda
