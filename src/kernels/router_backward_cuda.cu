// Gradients of the MoE router on a device. Nothing depends on the order in which blocks run.
//
// combine_experts_backward and gather_rows_backward: a block takes a token and lists its pairs that
// are here; without any it ends. Of the former each of four warps then takes a pair at a time, of
// which it reads the output and writes the gradient once (g_r comes from the cache after the first
// pair), four packs of 16 bytes in flight a thread. Of the latter the block adds all its rows to
// one row of g_x, a pack a thread, four rows in flight. Both are bound by memory: 65536 pairs of
// 1024 channels in BF16 at 3 TB/s, 0.09 and 0.05 ms, and 16384 tokens' g_x besides.
//
// route_backward: a warp takes a token, writes its row of zeros and then the chosen experts' values
// over them. 16384 tokens of 512 experts: 34 MB written.
#include "kernels/cuda.h"
#include "kernels/packs_cuda.h"
#include "kernels/shared_memory_cuda.h"
#include "kernels/sigmoid.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kAhead = 4;  // packs in flight

__device__ float sum_of_warp(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  return value;
}

// Where pairs lie: those with places in [first, first + n_rows) are here.
struct PairsHere {
  int64_t first, n_rows;
  const int32_t* places;
  int top_k;

  int64_t shared_bytes() const { return int64_t{top_k} * 2 * static_cast<int64_t>(sizeof(int)); }
};

// A token's pairs that are here, in order, in shared memory.
struct PairList {
  int n;
  const int32_t* ranks;  // among the token's pairs
  const int32_t* rows;   // place - first

  // All threads of the block.
  __device__ PairList(const PairsHere& here, int64_t token) {
    __shared__ int n_listed;
    int32_t* all_ranks = reinterpret_cast<int32_t*>(dynamic_shared());
    int32_t* all_rows = all_ranks + here.top_k;
    if (threadIdx.x < 32) {
      const int listed = list(here, token, all_ranks, all_rows);
      if (threadIdx.x == 0) n_listed = listed;
    }
    __syncthreads();
    n = n_listed;
    ranks = all_ranks;
    rows = all_rows;
  }
  // One warp.
  __device__ static int list(const PairsHere& here, int64_t token, int32_t* ranks, int32_t* rows) {
    int n_listed = 0;
    for (int begin = 0; begin < here.top_k; begin += 32) {
      const int rank = begin + static_cast<int>(threadIdx.x);
      const int64_t row =
          rank < here.top_k ? here.places[token * here.top_k + rank] - here.first : -1;
      const bool is_here = row >= 0 && row < here.n_rows;
      const unsigned voted = __ballot_sync(~0u, is_here);
      if (is_here) {
        const int slot = n_listed + __popc(voted & ((1u << threadIdx.x) - 1));
        ranks[slot] = rank;
        rows[slot] = static_cast<int32_t>(row);
      }
      n_listed += __popc(voted);
    }
    return n_listed;
  }
};

// Of one pair, by a warp: writes weight * g_r and returns <g_r, output>. A thread writes only what
// it has read.
template <class G, class T, int N>
__device__ float combine_pair(const G* g_r, const T* output, float weight, int64_t n_cols,
                              T* g_output) {
  const int64_t first = int64_t{threadIdx.x % 32} * N;
  float sum = 0;
  for (int64_t begin = first; begin < n_cols; begin += kAhead * 32 * N) {
    Pack<G, N> gradients[kAhead];
    Pack<T, N> outputs[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t col = begin + i * 32 * N;
      if (col >= n_cols) continue;
      gradients[i] = Pack<G, N>::load(g_r + col);
      outputs[i] = Pack<T, N>::load(output + col);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t col = begin + i * 32 * N;
      if (col >= n_cols) continue;
      Pack<T, N> result;
#pragma unroll
      for (int c = 0; c < N; ++c) {
        const float g = static_cast<float>(gradients[i].elems[c]);
        sum += g * static_cast<float>(outputs[i].elems[c]);
        result.elems[c] = static_cast<T>(weight * g);
      }
      result.store(g_output + col);
    }
  }
  return sum_of_warp(sum);
}

template <class G, class T, int N>
__global__ void __launch_bounds__(kThreads)
    combine_backward(const PairsHere here, int64_t n_cols, const float* weights, Rows<const G> g_r,
                     Rows<const T> outputs, Rows<T> g_outputs, float* g_weights) {
  const int64_t token = blockIdx.x;
  const PairList pairs(here, token);
  for (int i = threadIdx.x / 32; i < pairs.n; i += kWarps) {
    const int64_t pair = token * here.top_k + pairs.ranks[i];
    const float g_weight =
        combine_pair<G, T, N>(g_r.at(token, 0), outputs.at(pairs.rows[i], 0), weights[pair], n_cols,
                              g_outputs.at(pairs.rows[i], 0));
    if (threadIdx.x % 32 == 0) g_weights[pair] = g_weight;
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    gather_backward(const PairsHere here, int64_t n_cols, Rows<const T> g_y, Rows<float> g_x) {
  const int64_t token = blockIdx.x;
  const PairList pairs(here, token);
  if (pairs.n == 0) return;
  for (int64_t col = int64_t{threadIdx.x} * N; col < n_cols; col += kThreads * N) {
    auto sum = Pack<float, N>::load(g_x.at(token, col));
#pragma unroll 4
    for (int i = 0; i < pairs.n; ++i) {
      const auto gradient = Pack<T, N>::load(g_y.at(pairs.rows[i], col));
#pragma unroll
      for (int c = 0; c < N; ++c) sum.elems[c] += static_cast<float>(gradient.elems[c]);
    }
    sum.store(g_x.at(token, col));
  }
}

struct RouteGradient {
  int64_t n_tokens;
  int n_experts, top_k;
  bool normalize;
  float scale;
  Rows<const float> logits;
  const int32_t* experts;
  const float* g_weights;
  Rows<float> g_logits;
};

__global__ void __launch_bounds__(kThreads) route_tokens_backward(const RouteGradient route) {
  const int lane = threadIdx.x % 32;
  const int64_t token = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (token >= route.n_tokens) return;
  const float* logits = route.logits.at(token, 0);
  float* g_logits = route.g_logits.at(token, 0);
  const int32_t* experts = route.experts + token * route.top_k;
  const float* g_weights = route.g_weights + token * route.top_k;
  for (int expert = lane; expert < route.n_experts; expert += 32) g_logits[expert] = 0.0f;
  float sum = 0;
  float product = 0;
  for (int rank = lane; rank < route.top_k; rank += 32) {
    const float s = sigmoid_of(logits[experts[rank]]).value;
    sum += s;
    product += g_weights[rank] * s;
  }
  sum = sum_of_warp(sum) + 1e-20f;
  product = sum_of_warp(product);
  __syncwarp();  // the zeros come first
  for (int rank = lane; rank < route.top_k; rank += 32) {
    const Sigmoid s = sigmoid_of(logits[experts[rank]]);
    const float g_s = route.normalize ? (g_weights[rank] - product / sum) / sum : g_weights[rank];
    g_logits[experts[rank]] = route.scale * g_s * s.value * s.complement;
  }
}

template <class G, class T, int N>
void launch_combine(const PairsHere& here, const Routing& routing, ConstAnyMatrixView g_r,
                    ConstAnyMatrixView outputs, AnyMatrixView g_outputs,
                    VectorView<float> g_weights) {
  const auto bytes = static_cast<size_t>(here.shared_bytes());
  combine_backward<G, T, N>
      <<<static_cast<unsigned>(g_r.rows), kThreads, bytes, stream_of(g_r.device)>>>(
          here, g_r.cols, routing.weights.view().data, rows_of<const G>(g_r),
          rows_of<const T>(outputs), rows_of<T>(g_outputs), g_weights.data);
  check_launch();
}

template <class T, int N>
void launch_gather(const PairsHere& here, ConstAnyMatrixView g_y, AnyMatrixView g_x) {
  const auto bytes = static_cast<size_t>(here.shared_bytes());
  gather_backward<T, N>
      <<<static_cast<unsigned>(g_x.rows), kThreads, bytes, stream_of(g_x.device)>>>(
          here, g_x.cols, rows_of<const T>(g_y), rows_of<float>(g_x));
  check_launch();
}

// Elements of a pack: 16 bytes.
template <class T>
constexpr int kPack = 16 / static_cast<int>(sizeof(T));

}  // namespace

void combine_experts_backward(ConstAnyMatrixView g_r, int64_t first, const ExpertGroups& groups,
                              const Routing& routing, ConstAnyMatrixView outputs,
                              AnyMatrixView g_outputs, VectorView<float> g_weights) {
  if (g_r.rows == 0 || outputs.rows == 0) return;
  const PairsHere here{first, outputs.rows, groups.places.view().data,
                       static_cast<int>(routing.top_k)};
  with_element_type(g_r.dtype, [&]<class G>(G) {
    with_element_type(outputs.dtype, [&]<class T>(T) {
      const bool is_in_packs = has_packs(g_r, kPack<T>) && has_packs(outputs, kPack<T>) &&
                               has_packs(g_outputs, kPack<T>);
      if (is_in_packs) {
        launch_combine<G, T, kPack<T>>(here, routing, g_r, outputs, g_outputs, g_weights);
      } else {
        launch_combine<G, T, 1>(here, routing, g_r, outputs, g_outputs, g_weights);
      }
    });
  });
}

void gather_rows_backward(ConstAnyMatrixView g_y, int64_t first, const ExpertGroups& groups,
                          int64_t top_k, AnyMatrixView g_x) {
  if (g_x.rows == 0 || g_x.cols == 0 || g_y.rows == 0) return;
  const PairsHere here{first, g_y.rows, groups.places.view().data, static_cast<int>(top_k)};
  with_element_type(g_y.dtype, [&]<class T>(T) {
    if (has_packs(g_y, kPack<T>) && has_packs(g_x, kPack<T>)) {
      launch_gather<T, kPack<T>>(here, g_y, g_x);
    } else {
      launch_gather<T, 1>(here, g_y, g_x);
    }
  });
}

void route_backward(const RouterShape& shape, ConstAnyMatrixView logits, const Routing& routing,
                    VectorView<const float> g_weights, AnyMatrixView g_logits) {
  if (logits.rows == 0) return;
  const RouteGradient route{.n_tokens = logits.rows,
                            .n_experts = static_cast<int>(shape.n_experts),
                            .top_k = static_cast<int>(shape.top_k),
                            .normalize = shape.normalize,
                            .scale = shape.scale,
                            .logits = rows_of<const float>(logits),
                            .experts = routing.experts.view().data,
                            .g_weights = g_weights.data,
                            .g_logits = rows_of<float>(g_logits)};
  const auto n_blocks = static_cast<unsigned>((logits.rows + kWarps - 1) / kWarps);
  route_tokens_backward<<<n_blocks, kThreads, 0, stream_of(logits.device)>>>(route);
  check_launch();
}

}  // namespace vernier::kernels::cuda
