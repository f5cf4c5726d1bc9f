// The MoE router on a device: a choice by a warp a token, a stable counting sort of the pairs, the
// experts' outputs added by a block a token. Nothing depends on the order in which blocks run.
#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "kernels/cuda.h"
#include "kernels/packs_cuda.h"
#include "kernels/shared_memory_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kWarps = 4;  // of a block that gives each warp a piece of its own
constexpr int kMaxSharedBytes = 200 * 1024;

int64_t ceil_div(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }

__device__ unsigned lane_mask_below() { return (1u << (threadIdx.x % 32)) - 1; }

// How many warps, each with that much shared memory, make a block.
int warps_for(int64_t n_experts, int64_t bytes_per_warp) {
  if (bytes_per_warp > kMaxSharedBytes) {
    throw Error(ErrorKind::kUnsupported,
                "routing among " + std::to_string(n_experts) +
                    " experts on a device: a token's scores do not fit its shared memory");
  }
  return kWarps * bytes_per_warp <= kMaxSharedBytes ? kWarps : 1;
}

template <class Kernel>
void allow_shared(Kernel kernel, int64_t bytes) {
  VERNIER_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(bytes)));
}

// ---- The choice ----
// A warp holds a token's keys in shared memory: unsigned numbers that order as the scores do. Lane
// l owns keys l, l + 32, ... and knows the best of them; a round takes the warp's best, of equals
// the lower index, and only its owner looks again. A chosen key becomes 0, below every other, so
// that the choice in ascending order is where the zeros are. 512 experts and 22 choices: about 1500
// instructions a token, against 2 KiB read.

constexpr unsigned kChosen = 0;
constexpr unsigned kLowest = 0x007FFFFFu;  // the key of minus infinity

__device__ unsigned key_of(float score) {
  if (isnan(score)) return kLowest;                     // chosen last
  const unsigned bits = __float_as_uint(score + 0.0f);  // one zero
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ float score_of(unsigned key) {
  return __uint_as_float(key >> 31 ? key & 0x7FFFFFFFu : ~key);
}

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

struct BestKey {
  unsigned key = kChosen;
  int index = 0;
};

__device__ BestKey best_of_lane(const unsigned* keys, int n) {
  BestKey best;
  for (int index = threadIdx.x % 32; index < n; index += 32) {
    const unsigned key = keys[index];
    if (key > best.key) best = {key, index};
  }
  return best;
}

// Sets the n_best largest of n keys to kChosen. Lane l wrote, and may read, those with index % 32
// == l.
__device__ void choose(unsigned* keys, int n, int n_best) {
  const int lane = threadIdx.x % 32;
  BestKey best = best_of_lane(keys, n);
  for (int round = 0; round < n_best; ++round) {
    const unsigned key = __reduce_max_sync(~0u, best.key);
    const unsigned index = __reduce_min_sync(~0u, best.key == key ? best.index : n);
    if (static_cast<int>(index) % 32 != lane) continue;
    keys[index] = kChosen;
    best = best_of_lane(keys, n);
  }
}

// The sum of the two best scores; of a group of one, its score.
__device__ float group_score(const unsigned* keys, int n) {
  unsigned best = 0;
  unsigned second = 0;
  for (int index = threadIdx.x % 32; index < n; index += 32) {
    second = max(second, min(best, keys[index]));
    best = max(best, keys[index]);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const unsigned other_best = __shfl_xor_sync(~0u, best, step);
    const unsigned other_second = __shfl_xor_sync(~0u, second, step);
    second = max(min(best, other_best), max(second, other_second));
    best = max(best, other_best);
  }
  return n > 1 ? score_of(best) + score_of(second) : score_of(best);
}

struct RouteArguments {
  Rows<const float> logits;
  int64_t n_tokens;
  const float* bias;
  int n_experts, top_k, n_groups, top_groups;
  bool normalize;
  float scale;
  int32_t* experts;
  float* weights;

  // Of a warp: keys of experts, keys of groups, the chosen scores.
  __host__ __device__ int shared_words() const { return n_experts + n_groups + top_k; }
};

// Gives the members of all but the best groups the lowest key.
__device__ void mask_weak_groups(const RouteArguments& args, unsigned* keys, unsigned* group_keys) {
  const int lane = threadIdx.x % 32;
  const int size = args.n_experts / args.n_groups;
  __syncwarp();
  for (int group = 0; group < args.n_groups; ++group) {
    const float score = group_score(keys + group * size, size);
    if (group % 32 == lane) group_keys[group] = key_of(score);
  }
  choose(group_keys, args.n_groups, args.top_groups);
  __syncwarp();
  for (int expert = lane; expert < args.n_experts; expert += 32) {
    if (group_keys[expert / size] != kChosen) keys[expert] = kLowest;
  }
}

// Writes the chosen experts in ascending order and their weights.
__device__ void write_choice(const RouteArguments& args, const float* logits, const unsigned* keys,
                             float* scores, int64_t token) {
  const int lane = threadIdx.x % 32;
  int32_t* experts = args.experts + token * args.top_k;
  int n_written = 0;
  for (int first = 0; first < args.n_experts; first += 32) {
    const int expert = first + lane;
    const bool is_chosen = expert < args.n_experts && keys[expert] == kChosen;
    const unsigned chosen = __ballot_sync(~0u, is_chosen);
    const int rank = n_written + __popc(chosen & lane_mask_below());
    if (is_chosen) {
      experts[rank] = expert;
      scores[rank] = sigmoid(logits[expert]);
    }
    n_written += __popc(chosen);
  }
  __syncwarp();
  float sum = 1e-20f;
  for (int rank = 0; rank < args.top_k; ++rank) sum += scores[rank];  // in order, in every lane
  const float factor = args.normalize ? args.scale / sum : args.scale;
  for (int rank = lane; rank < args.top_k; rank += 32) {
    args.weights[token * args.top_k + rank] = scores[rank] * factor;
  }
}

__global__ void route_tokens(const RouteArguments args) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int64_t token = int64_t{blockIdx.x} * (blockDim.x / 32) + warp;
  if (token >= args.n_tokens) return;
  unsigned* keys = reinterpret_cast<unsigned*>(dynamic_shared()) + warp * args.shared_words();
  unsigned* group_keys = keys + args.n_experts;
  float* scores = reinterpret_cast<float*>(group_keys + args.n_groups);
  const float* logits = args.logits.at(token, 0);
#pragma unroll 4
  for (int expert = lane; expert < args.n_experts; expert += 32) {
    keys[expert] = key_of(sigmoid(logits[expert]) + args.bias[expert]);
  }
  if (args.top_groups < args.n_groups) mask_weak_groups(args, keys, group_keys);
  choose(keys, args.n_experts, args.top_k);
  write_choice(args, logits, keys, scores, token);
}

// ---- The sort ----
// A warp owns a chunk of consecutive pairs and a counter for every expert, and goes through its
// chunk 32 pairs at a time; pairs of one expert among the 32 find their order by voting. Once it
// counts; then the counts become, expert after expert and chunk after chunk, the places where each
// chunk's pairs begin; and a second time it gives out places. 1.4 million pairs: 700 warps, 11 MB
// moved.

constexpr int kChunk = 2048;
constexpr int kAhead = 8;  // loads in flight, of 32 pairs each

// Calls take(pair, expert, n_before, n_same) for each pair of the warp's chunk; of the 32 pairs
// that lanes take together, n_same are of its expert, n_before of them before it. Lanes beyond the
// end have expert -1.
template <class Take>
__device__ void for_each_pair(const int32_t* experts, int64_t n_pairs, int64_t chunk, Take take) {
  const int64_t end = min(n_pairs, (chunk + 1) * kChunk);
  for (int64_t first = chunk * kChunk; first < end; first += 32 * kAhead) {
    int32_t loaded[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t pair = first + 32 * i + threadIdx.x % 32;
      loaded[i] = pair < end ? experts[pair] : -1;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const unsigned same = __match_any_sync(~0u, loaded[i]);
      take(first + 32 * i + threadIdx.x % 32, loaded[i], __popc(same & lane_mask_below()),
           __popc(same));
      __syncwarp();
    }
  }
}

// counts[expert * n_chunks + chunk].
__global__ void count_pairs(const int32_t* experts, int64_t n_pairs, int n_experts, int n_chunks,
                            int32_t* counts) {
  const int warp = threadIdx.x / 32;
  const int chunk = blockIdx.x * (blockDim.x / 32) + warp;
  if (chunk >= n_chunks) return;
  int32_t* counters = reinterpret_cast<int32_t*>(dynamic_shared()) + warp * n_experts;
  for (int expert = threadIdx.x % 32; expert < n_experts; expert += 32) counters[expert] = 0;
  __syncwarp();
  for_each_pair(experts, n_pairs, chunk, [&](int64_t, int32_t expert, int n_before, int n_same) {
    if (expert >= 0 && n_before == 0) counters[expert] += n_same;
  });
  for (int expert = threadIdx.x % 32; expert < n_experts; expert += 32) {
    counts[int64_t{expert} * n_chunks + chunk] = counters[expert];
  }
}

// The sum of the values of lanes up to this one.
__device__ int32_t sum_through_lane(int32_t value) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int32_t other = __shfl_up_sync(~0u, value, step);
    if (static_cast<int>(threadIdx.x) % 32 >= step) value += other;
  }
  return value;
}

// Replaces values by the sums of those before them and returns the sum of all. One warp.
__device__ int32_t sum_up(int32_t* values, int n) {
  int32_t total = 0;
  for (int first = 0; first < n; first += 32) {
    const int index = first + threadIdx.x % 32;
    const int32_t value = index < n ? values[index] : 0;
    const int32_t through = sum_through_lane(value);
    if (index < n) values[index] = total + through - value;
    total += __shfl_sync(~0u, through, 31);
  }
  return total;
}

// A warp an expert: counts become places within the expert's; begin[expert] its number of pairs.
__global__ void sum_chunks(int32_t* counts, int n_experts, int n_chunks, int32_t* begin) {
  const int expert = blockIdx.x * kWarps + threadIdx.x / 32;
  if (expert >= n_experts) return;
  const int32_t total = sum_up(counts + int64_t{expert} * n_chunks, n_chunks);
  if (threadIdx.x % 32 == 0) begin[expert] = total;
}

// One warp.
__global__ void sum_experts(int32_t* begin, int n_experts) {
  const int32_t total = sum_up(begin, n_experts);
  if (threadIdx.x == 0) begin[n_experts] = total;
}

__global__ void place_pairs(const int32_t* experts, int64_t n_pairs, int n_experts, int n_chunks,
                            int top_k, const int32_t* counts, const int32_t* begin, int32_t* tokens,
                            int32_t* places) {
  const int warp = threadIdx.x / 32;
  const int chunk = blockIdx.x * (blockDim.x / 32) + warp;
  if (chunk >= n_chunks) return;
  int32_t* next = reinterpret_cast<int32_t*>(dynamic_shared()) + warp * n_experts;
  for (int expert = threadIdx.x % 32; expert < n_experts; expert += 32) {
    next[expert] = begin[expert] + counts[int64_t{expert} * n_chunks + chunk];
  }
  __syncwarp();
  for_each_pair(experts, n_pairs, chunk,
                [&](int64_t pair, int32_t expert, int n_before, int n_same) {
                  const int32_t first = expert < 0 ? 0 : next[expert];
                  __syncwarp();
                  if (expert < 0) return;
                  if (n_before == 0) next[expert] = first + n_same;
                  tokens[first + n_before] = static_cast<int32_t>(pair / top_k);
                  places[pair] = first + n_before;
                });
}

// ---- The sum ----
// A block adds to one token's row, which it reads and writes once, if at all; a thread takes packs
// of 16 bytes of the outputs, four pairs in flight.

constexpr int kCombineThreads = 128;

struct CombineArguments {
  int64_t first, n_outputs;
  const int32_t* places;
  const float* weights;
  int top_k;
  int64_t n_cols;
  Rows<float> r;
};

// Lists the token's pairs whose outputs are here, in order; returns their number. One warp.
__device__ int list_pairs(const CombineArguments& args, int64_t token, int32_t* rows,
                          float* weights) {
  int n_listed = 0;
  for (int first = 0; first < args.top_k; first += 32) {
    const int pair = first + threadIdx.x;
    const int64_t index = token * args.top_k + pair;
    const int64_t row = pair < args.top_k ? args.places[index] - args.first : -1;
    const bool is_here = row >= 0 && row < args.n_outputs;
    const unsigned here = __ballot_sync(~0u, is_here);
    if (is_here) {
      const int slot = n_listed + __popc(here & lane_mask_below());
      rows[slot] = static_cast<int32_t>(row);
      weights[slot] = args.weights[index];
    }
    n_listed += __popc(here);
  }
  return n_listed;
}

template <class T, int N>
__global__ void __launch_bounds__(kCombineThreads)
    combine(Rows<const T> outputs, const CombineArguments args) {
  int32_t* rows = reinterpret_cast<int32_t*>(dynamic_shared());
  float* weights = reinterpret_cast<float*>(rows + args.top_k);
  __shared__ int n_rows;
  const int64_t token = blockIdx.x;
  if (threadIdx.x < 32) {
    const int n_listed = list_pairs(args, token, rows, weights);
    if (threadIdx.x == 0) n_rows = n_listed;
  }
  __syncthreads();
  if (n_rows == 0) return;
  for (int64_t col = int64_t{threadIdx.x} * N; col < args.n_cols; col += kCombineThreads * N) {
    auto sum = Pack<float, N>::load(args.r.at(token, col));
#pragma unroll 4
    for (int i = 0; i < n_rows; ++i) {
      const auto output = Pack<T, N>::load(outputs.at(rows[i], col));
#pragma unroll
      for (int c = 0; c < N; ++c) sum.elems[c] += weights[i] * static_cast<float>(output.elems[c]);
    }
    sum.store(args.r.at(token, col));
  }
}

template <class T, int N>
void launch_combine(ConstAnyMatrixView outputs, const CombineArguments& args, AnyMatrixView r) {
  const int64_t bytes = int64_t{args.top_k} * 8;
  combine<T, N><<<static_cast<unsigned>(r.rows), kCombineThreads, static_cast<size_t>(bytes),
                  stream_of(r.device)>>>(rows_of<const T>(outputs), args);
  check_launch();
}

}  // namespace

Routing route(const RouterShape& shape, ConstAnyMatrixView logits,
              VectorView<const float> correction_bias) {
  Device* device = logits.device;
  Routing routing;
  routing.top_k = shape.top_k;
  routing.experts = Vector<int32_t>(logits.rows * shape.top_k, device);
  routing.weights = Vector<float>(logits.rows * shape.top_k, device);
  if (logits.rows == 0) return routing;
  const RouteArguments args{.logits = rows_of<const float>(logits),
                            .n_tokens = logits.rows,
                            .bias = correction_bias.data,
                            .n_experts = static_cast<int>(shape.n_experts),
                            .top_k = static_cast<int>(shape.top_k),
                            .n_groups = static_cast<int>(shape.n_groups),
                            .top_groups = static_cast<int>(shape.top_groups),
                            .normalize = shape.normalize,
                            .scale = shape.scale,
                            .experts = routing.experts.view().data,
                            .weights = routing.weights.view().data};
  const int n_warps = warps_for(shape.n_experts, args.shared_words() * 4);
  const int bytes = n_warps * args.shared_words() * 4;
  const auto n_blocks = static_cast<unsigned>(ceil_div(logits.rows, n_warps));
  allow_shared(route_tokens, bytes);
  route_tokens<<<n_blocks, 32 * n_warps, bytes, stream_of(device)>>>(args);
  check_launch();
  return routing;
}

ExpertGroups group_by_expert(const Routing& routing, int64_t n_experts) {
  Device* device = routing.experts.view().device;
  const cudaStream_t stream = stream_of(device);
  const int64_t n_pairs = routing.experts.size();
  ExpertGroups groups{.begin = std::vector<int64_t>(static_cast<size_t>(n_experts) + 1),
                      .tokens = Vector<int32_t>(n_pairs, device),
                      .places = Vector<int32_t>(n_pairs, device)};
  if (n_pairs == 0) return groups;
  const int n_chunks = static_cast<int>(ceil_div(n_pairs, kChunk));
  const int experts = static_cast<int>(n_experts);
  Vector<int32_t> counts(n_experts * n_chunks, device);
  Vector<int32_t> begin(n_experts + 1, device);
  const int n_warps = warps_for(n_experts, n_experts * 4);
  const int bytes = n_warps * experts * 4;
  const auto n_blocks = static_cast<unsigned>(ceil_div(n_chunks, n_warps));
  const int32_t* pairs = routing.experts.view().data;

  allow_shared(count_pairs, bytes);
  count_pairs<<<n_blocks, 32 * n_warps, bytes, stream>>>(pairs, n_pairs, experts, n_chunks,
                                                         counts.view().data);
  check_launch();
  const auto n_sum_blocks = static_cast<unsigned>(ceil_div(n_experts, kWarps));
  sum_chunks<<<n_sum_blocks, 32 * kWarps, 0, stream>>>(counts.view().data, experts, n_chunks,
                                                       begin.view().data);
  check_launch();
  sum_experts<<<1, 32, 0, stream>>>(begin.view().data, experts);
  check_launch();
  allow_shared(place_pairs, bytes);
  place_pairs<<<n_blocks, 32 * n_warps, bytes, stream>>>(
      pairs, n_pairs, experts, n_chunks, static_cast<int>(routing.top_k), counts.view().data,
      begin.view().data, groups.tokens.view().data, groups.places.view().data);
  check_launch();
  const std::vector<int32_t> on_host = begin.to_host();
  groups.begin.assign(on_host.begin(), on_host.end());
  return groups;
}

void combine_experts(ConstAnyMatrixView outputs, int64_t first, const ExpertGroups& groups,
                     const Routing& routing, AnyMatrixView r) {
  if (r.rows == 0 || r.cols == 0 || outputs.rows == 0) return;
  const CombineArguments args{.first = first,
                              .n_outputs = outputs.rows,
                              .places = groups.places.view().data,
                              .weights = routing.weights.view().data,
                              .top_k = static_cast<int>(routing.top_k),
                              .n_cols = r.cols,
                              .r = rows_of<float>(r)};
  with_element_type(outputs.dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kPack = 16 / static_cast<int>(sizeof(T));
    if (has_packs(outputs, kPack) && has_packs(r, kPack)) {
      launch_combine<T, kPack>(outputs, args, r);
    } else {
      launch_combine<T, 1>(outputs, args, r);
    }
  });
}

}  // namespace vernier::kernels::cuda
