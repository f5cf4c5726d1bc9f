// The backward scan on a device, second kernel: all gradients of a chunk, from the states kept
// (ssm_scan_backward_states_cuda.cu). Formulas: ssm_scan_backward_cpu.cc.
//
// A block of 16 warps takes a chunk of 64 tokens of one group of heads, its B and C in shared
// memory throughout, C B^T in registers. Heads (cut into slices of kDim channels) follow one
// another:
//   1. x, g_y, S and G are copied (S and G rounded to T, <G, S> in FP32 on the way); Q = g_y X^T;
//   2. with D_ls = exp(c_l - c_s): K += D Q dt, M = D C B^T goes to shared memory, sums of
//      R = D C B^T Q over rows and columns;
//   3. g_C += exp(c) g_y S, g_B += E dt X G, and their products with C and B row by row;
//   4. g_x = dt (M^T g_y + E B G^T) + d g_y; meanwhile one warp turns the sums into g_dt.
// K, g_B and g_C stay in registers, so that heads are summed in order and K meets B and C once:
// g_C += K B, g_B += K^T C at the end. Four barriers a head. Of four by four warps, each has 16
// rows and every fourth block of 16 columns.
//
// A head of 64 x 128 is 4.2 MFLOP (0.5 each Q and M^T g_y, 1.0 each of g_C, g_B, E B G^T) and 88
// KiB of memory: 64 of S and G, 8 each of x, g_y and g_x (BF16). 16384 tokens of Super (128 heads)
// are 137 GFLOP and 2.9 GB: 1.1 ms at 2.7 TB/s, and 3 ms where copies and products take turns, as
// they do here. The first kernel adds 69 GFLOP.
//
// Error: BF16: K, M, S and G are rounded once by 2^-8; Q, C B^T, R and all sums are FP32 of exact
// products. FP32: sums of kDim, state_dim or 64 terms in order.
#include "kernels/shared_memory_cuda.h"
#include "kernels/ssm_scan_backward_plan_cuda.h"
#include "kernels/ssm_scan_backward_tile_cuda.h"
#include "kernels/ssm_scan_plan_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kRowWarps = kChunkTokens / 16;
constexpr int kColWarps = 4;
constexpr int kWarps = kRowWarps * kColWarps;
constexpr int kThreads = 32 * kWarps;
constexpr int kSlab = 128;  // columns of g_B and g_C that are summed at once

using Square = WarpSums<kChunkTokens, kColWarps>;
using Slab = WarpSums<kSlab, kColWarps>;

// What reaches dt and dt A of each token of a chunk, of one head: slices add up, and so do the
// parts of several warps.
struct TokenSums {
  float ends[kColWarps][kChunkTokens];        // sum_{s < l} dt_s R_ls, of l
  float begins[kRowWarps][kChunkTokens];      // sum_{l > s} R_ls, of s
  float own[kChunkTokens];                    // R_ss
  float skip[kChunkTokens];                   // Q_ss
  float from_state[kColWarps][kChunkTokens];  // g_y^T S C
  float to_state[kColWarps][kChunkTokens];    // x^T G B
  float across[kWarps];                       // <G, S>
};

// Sets what the first slice of a head finds, adds to it later.
__device__ void accumulate(float& sum, float value, bool is_first) {
  sum = is_first ? value : sum + value;
}

// Where a block's data lie in its shared memory.
template <class T, int kDim, int kState>
struct Memory {
  Tile<T, kDim> x, g_y;            // [tokens, channels]
  Tile<T, kState> b, c;            // [tokens, state]
  Tile<T, kState> state, g_state;  // [channels, state]
  Tile<T, kChunkTokens> square;    // M, at last K
  float* dt;
  ChunkDecays* decays;
  TokenSums* sums;

  static constexpr int kBytes =
      2 * Tile<T, kDim>::bytes(kChunkTokens) + 2 * Tile<T, kState>::bytes(kChunkTokens) +
      2 * Tile<T, kState>::bytes(kDim) + Tile<T, kChunkTokens>::bytes(kChunkTokens) +
      kChunkTokens * 4 + static_cast<int>(sizeof(ChunkDecays) + sizeof(TokenSums));
  static_assert(kBytes <= 227 * 1024, "what a block may have");

  __device__ explicit Memory(std::byte* memory) {
    const auto take = [&](int n_bytes) {
      std::byte* const start = memory;
      memory += n_bytes;
      return start;
    };
    const auto take_tile = [&](auto& tile, int n_rows) {
      tile.data = reinterpret_cast<T*>(take(tile.bytes(n_rows)));
    };
    take_tile(x, kChunkTokens);
    take_tile(g_y, kChunkTokens);
    take_tile(b, kChunkTokens);
    take_tile(c, kChunkTokens);
    take_tile(state, kDim);
    take_tile(g_state, kDim);
    take_tile(square, kChunkTokens);
    dt = reinterpret_cast<float*>(take(kChunkTokens * 4));
    decays = reinterpret_cast<ChunkDecays*>(take(sizeof(ChunkDecays)));
    sums = reinterpret_cast<TokenSums*>(memory);
  }
};

// What a block works on: a slice of a head, of a chunk.
struct Slice {
  const ScanBackwardPlan& plan;
  BackwardChunk chunk;
  int group;
  int head;  // of the pass
  int first_channel;
  int n_channels;

  __device__ Slice(const ScanBackwardPlan& plan, int index, int slice_dim)
      : plan(plan), chunk(plan.chunks[blockIdx.x]) {
    const int n_slices = (plan.head_dim + slice_dim - 1) / slice_dim;
    group = plan.first_group + static_cast<int>(blockIdx.y);
    head = static_cast<int>(blockIdx.y) * plan.heads_per_group + index / n_slices;
    first_channel = index % n_slices * slice_dim;
    n_channels = min(slice_dim, plan.head_dim - first_channel);
  }
  __device__ int whole_head() const { return plan.first_head + head; }
  __device__ bool is_first() const { return first_channel == 0; }
  __device__ bool is_last() const { return first_channel + n_channels == plan.head_dim; }
  __device__ bool has_state() const { return chunk.place_before >= 0; }
  __device__ bool has_g_state() const { return chunk.place_after >= 0; }

  // Where the chunk's data begin in a matrix of channels, or of groups.
  template <class T>
  __device__ T* channels(T* data, int64_t stride) const {
    return data + chunk.first_row * stride + int64_t{whole_head()} * plan.head_dim + first_channel;
  }
  template <class T>
  __device__ T* states(T* data, int64_t stride) const {
    return data + chunk.first_row * stride + int64_t{group} * plan.state_dim;
  }
};

__device__ float sum_over_warp(float sum) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(~0u, sum, distance);
  }
  return sum;
}

// Copies those of S and G that there are, rounded to T; <G, S>.
template <class T, int kDim, int kState>
__device__ void load_states(const Slice& slice, const Memory<T, kDim, kState>& memory) {
  const ScanBackwardPlan& plan = slice.plan;
  const bool has_state = slice.has_state(), has_g_state = slice.has_g_state();
  // A place that is not there is not read.
  const float* const states = plan.states + plan.state_at(max(0, slice.chunk.place_before),
                                                          slice.head, slice.first_channel);
  const float* const g_states = plan.g_states + plan.state_at(max(0, slice.chunk.place_after),
                                                              slice.head, slice.first_channel);
  float product = 0;
  constexpr int kPacks = kState / 4;
#pragma unroll 4
  for (int index = threadIdx.x; index < kDim * kPacks; index += kThreads) {
    const int row = index / kPacks;
    const int col = index % kPacks * 4;
    const bool is_inside = row < slice.n_channels && col < plan.state_stride;
    const int64_t place = int64_t{row} * plan.state_stride + col;
    float4 s = {}, g = {};
    if (has_state && is_inside) s = *reinterpret_cast<const float4*>(states + place);
    if (has_g_state && is_inside) g = *reinterpret_cast<const float4*>(g_states + place);
    product += s.x * g.x + s.y * g.y + (s.z * g.z + s.w * g.w);
    store_pack(memory.state.at(row, col), s);
    store_pack(memory.g_state.at(row, col), g);
  }
  product = sum_over_warp(product);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if (threadIdx.x % 32 == 0) accumulate(memory.sums->across[warp], product, slice.is_first());
}

template <class T, int kDim, int kState>
__device__ void load_slice(const Slice& slice, const Memory<T, kDim, kState>& memory) {
  const ScanBackwardPlan& plan = slice.plan;
  const int n_tokens = slice.chunk.n_tokens;
  load_tile<kChunkTokens, kThreads>(memory.x,
                                    slice.channels(static_cast<const T*>(plan.x), plan.x_stride),
                                    plan.x_stride, n_tokens, slice.n_channels, plan.is_x_aligned);
  load_tile<kChunkTokens, kThreads>(
      memory.g_y, slice.channels(static_cast<const T*>(plan.g_y), plan.g_y_stride), plan.g_y_stride,
      n_tokens, slice.n_channels, plan.is_g_y_aligned);
  if (threadIdx.x < kChunkTokens) {
    const int t = static_cast<int>(threadIdx.x);
    const int64_t row = int64_t{slice.chunk.first_row} + t;
    memory.dt[t] = t < n_tokens ? plan.dt[row * plan.dt_stride + slice.whole_head()] : 0.0f;
  }
  load_states(slice, memory);
}

// E_s.
__device__ float decay_to_end(const ChunkDecays& decays, int token) {
  return exp2f(exponent_between(decays.sum[kChunkTokens - 1], decays.sum[token]));
}

// Everything within the chunk, from the lane's parts of Q and C B^T: adds to K, writes M and sums.
template <class T>
__device__ void mix(const Square& q, const Square& cb, const ChunkDecays& decays, const float* dt,
                    bool is_first, Square& pairs, Tile<T, kChunkTokens> to, TokenSums& sums) {
  float ends[2] = {};       // of the lane's two rows
  float begins[2][2] = {};  // of its four columns
  Square::for_each_pair([&](int block, int j, int half, int l, int s) {
    float mixed[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int i = 2 * half + e;
      const bool is_seen = s + e <= l;
      const float decay =
          is_seen ? exp2f(exponent_between(decays.sum[l], decays.sum[s + e])) : 0.0f;
      const float weighted = is_seen ? decay * q.values[block][j][i] : 0.0f;
      mixed[e] = is_seen ? decay * cb.values[block][j][i] : 0.0f;
      pairs.values[block][j][i] += weighted * dt[s + e];
      const float both = is_seen ? weighted * cb.values[block][j][i] : 0.0f;
      if (s + e == l) {
        accumulate(sums.own[l], both, is_first);
        accumulate(sums.skip[l], q.values[block][j][i], is_first);
      } else {
        ends[half] += dt[s + e] * both;
        begins[j][e] += both;
      }
    }
    store_pair(to.at(l, s), mixed[0], mixed[1]);
  });
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    ends[half] += __shfl_xor_sync(~0u, ends[half], 1);
    ends[half] += __shfl_xor_sync(~0u, ends[half], 2);
    const int row = Square::first_row() + lane / 4 + 8 * half;
    if (lane % 4 == 0) accumulate(sums.ends[Square::col_warp()][row], ends[half], is_first);
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float& begin = begins[j][e];
      for (int distance = 4; distance < 32; distance *= 2) {
        begin += __shfl_xor_sync(~0u, begin, distance);
      }
      const int col = Square::first_col(0) + 8 * j + lane % 4 * 2 + e;
      if (lane < 4) accumulate(sums.begins[Square::first_row() / 16][col], begin, is_first);
    }
  }
}
static_assert(Square::kBlocks == 1, "begins of a lane's columns");

// to += factor_t (left_t S) for every token t; dots: (left_t S) . right_t.
template <class T, int kDim, int kState, int kSlabs>
__device__ void pass_state(Tile<T, kDim> left, Tile<T, kState> state, Tile<T, kState> right,
                           const float* factors, bool is_first, Slab (&to)[kSlabs],
                           float (&dots)[kColWarps][kChunkTokens]) {
  float dot[2] = {};  // of the lane's two rows
#pragma unroll
  for (int slab = 0; slab < kSlabs; ++slab) {
    Slab part;
    part.clear();
    part.template add_product<false, false>(left, state.from_col(slab * kSlab), 0, kDim);
    Slab::for_each_pair([&](int block, int j, int half, int t, int n) {
      const float* pair = part.values[block][j] + 2 * half;
      const float2 other = load_pair(right.at(t, slab * kSlab + n));
      dot[half] += pair[0] * other.x + pair[1] * other.y;
      to[slab].values[block][j][2 * half] += factors[t] * pair[0];
      to[slab].values[block][j][2 * half + 1] += factors[t] * pair[1];
    });
  }
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    dot[half] += __shfl_xor_sync(~0u, dot[half], 1);
    dot[half] += __shfl_xor_sync(~0u, dot[half], 2);
    const int row = Slab::first_row() + lane / 4 + 8 * half;
    if (lane % 4 == 0) accumulate(dots[Slab::col_warp()][row], dot[half], is_first);
  }
}

// g_x = dt (M^T g_y + E B G^T) + d g_y.
template <class T, int kDim, int kState>
__device__ void write_g_x(const Slice& slice, const Memory<T, kDim, kState>& memory) {
  using Channels = WarpSums<kDim, kColWarps>;
  const ScanBackwardPlan& plan = slice.plan;
  const float d = plan.d[slice.whole_head()];
  Channels sums;
  sums.clear();
  if (slice.has_g_state()) {
    sums.template add_product<false, true>(memory.b, memory.g_state, 0, kState);
    Channels::for_each_pair([&](int block, int j, int half, int t, int) {
      const float decay = decay_to_end(*memory.decays, t);
      sums.values[block][j][2 * half] *= decay;
      sums.values[block][j][2 * half + 1] *= decay;
    });
  }
  sums.template add_product<true, false>(memory.square, memory.g_y, Channels::first_row(),
                                         kChunkTokens);
  T* const g_x = slice.channels(static_cast<T*>(plan.g_x), plan.g_x_stride);
  Channels::for_each_pair([&](int block, int j, int half, int t, int channel) {
    if (t >= slice.chunk.n_tokens) return;
    const float* pair = sums.values[block][j] + 2 * half;
    const float2 g_y = load_pair(memory.g_y.at(t, channel));
    store_inside(g_x + t * plan.g_x_stride + channel, fmaf(memory.dt[t], pair[0], d * g_y.x),
                 fmaf(memory.dt[t], pair[1], d * g_y.y), slice.n_channels - channel,
                 plan.is_g_x_paired);
  });
}

__device__ double sum_over_warp(double sum) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(~0u, sum, distance);
  }
  return sum;
}

template <int kParts>
__device__ float sum_of(const float (&parts)[kParts][kChunkTokens], int token) {
  float sum = 0;
#pragma unroll
  for (int part = 0; part < kParts; ++part) sum += parts[part][token];
  return sum;
}

// g_dt, and the chunk's parts of g_a and g_d, of a whole head; for one warp. Lanes own two tokens
// each.
__device__ void finish_dt(const Slice& slice, const TokenSums& sums, const ChunkDecays& decays,
                          const float* dt) {
  const ScanBackwardPlan& plan = slice.plan;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  double direct[2];  // what reaches dt itself
  double passed[2];  // what begins with the token less what ends with it: g(dt A)'s next step
  double from_state = 0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int t = 2 * lane + i;
    const float begins = sum_of(sums.begins, t);
    const float u = slice.has_state() ? decays.from_start[t] * sum_of(sums.from_state, t) : 0.0f;
    const float v = slice.has_g_state() ? decay_to_end(decays, t) * sum_of(sums.to_state, t) : 0.0f;
    direct[i] = double{begins} + sums.own[t] + v;
    passed[i] = double{dt[t]} * (double{begins} + v) - sum_of(sums.ends, t) - u;
    from_state += u;
  }
  float across = lane < kWarps ? sums.across[lane] : 0.0f;
  across = decays.from_start[kChunkTokens - 1] * sum_over_warp(across);
  from_state = sum_over_warp(from_state);

  double before = passed[0] + passed[1];
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const double earlier = __shfl_up_sync(~0u, before, distance);
    if (lane >= distance) before += earlier;
  }
  before -= passed[0] + passed[1];
  const double through[2] = {from_state + across + before,
                             from_state + across + before + passed[0]};
  const double a = plan.a[slice.whole_head()];
  double g_a = 0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int t = 2 * lane + i;
    g_a += dt[t] * through[i];
    if (t >= slice.chunk.n_tokens) continue;
    plan.g_dt[(int64_t{slice.chunk.first_row} + t) * plan.g_dt_stride + slice.whole_head()] =
        static_cast<float>(a * through[i] + direct[i]);
  }
  g_a = sum_over_warp(g_a);
  const float g_d = sum_over_warp(sums.skip[2 * lane] + sums.skip[2 * lane + 1]);
  if (lane > 0) return;
  const int64_t place = int64_t{blockIdx.x} * plan.n_heads + slice.head;
  if (plan.a_parts != nullptr) plan.a_parts[place] = static_cast<float>(g_a);
  if (plan.d_parts != nullptr) plan.d_parts[place] = g_d;
}

template <class T>
__device__ void write_slab(const Slab& sums, int first_col, const Slice& slice, T* to,
                           int64_t stride, bool is_paired) {
  Slab::for_each_pair([&](int block, int j, int half, int t, int n) {
    if (t >= slice.chunk.n_tokens) return;
    const float* pair = sums.values[block][j] + 2 * half;
    store_inside(to + t * stride + first_col + n, pair[0], pair[1],
                 slice.plan.state_dim - first_col - n, is_paired);
  });
}

template <class T, int kDim, int kState>
__global__ void __launch_bounds__(kThreads, 1)
    chunk_gradients(const __grid_constant__ ScanBackwardPlan plan) {
  constexpr int kSlabs = kState / kSlab;
  const Memory<T, kDim, kState> memory(dynamic_shared());
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const Slice group(plan, 0, kDim);
  load_tile<kChunkTokens, kThreads>(
      memory.b, group.states(static_cast<const T*>(plan.b), plan.b_stride), plan.b_stride,
      group.chunk.n_tokens, plan.state_dim, plan.is_b_aligned);
  load_tile<kChunkTokens, kThreads>(
      memory.c, group.states(static_cast<const T*>(plan.c), plan.c_stride), plan.c_stride,
      group.chunk.n_tokens, plan.state_dim, plan.is_c_aligned);
  wait_for_copies();
  __syncthreads();
  // Blocks beyond the diagonal are masked.
  const bool is_masked = Square::first_col(0) > Square::first_row();
  Square cb, pairs;
  cb.clear();
  pairs.clear();
  if (!is_masked) cb.template add_product<false, true>(memory.c, memory.b, 0, kState);
  Slab g_b[kSlabs], g_c[kSlabs];
#pragma unroll
  for (int slab = 0; slab < kSlabs; ++slab) {
    g_b[slab].clear();
    g_c[slab].clear();
  }

  const int n_slices = (plan.head_dim + kDim - 1) / kDim;
#pragma unroll 1
  for (int index = 0; index < plan.heads_per_group * n_slices; ++index) {
    const Slice slice(plan, index, kDim);
    __syncthreads();  // nobody still reads the slice before
    load_slice(slice, memory);
    wait_for_copies();
    __syncthreads();
    if (warp == 0) fill_decays(memory.dt, plan.a[slice.whole_head()], *memory.decays);
    Square q;
    q.clear();
    if (!is_masked) q.template add_product<false, true>(memory.g_y, memory.x, 0, kDim);
    __syncthreads();  // the decays have arrived
    const ChunkDecays& decays = *memory.decays;
    mix(q, cb, decays, memory.dt, slice.is_first(), pairs, memory.square, *memory.sums);
    if (slice.has_state()) {
      pass_state(memory.g_y, memory.state, memory.c, decays.from_start, slice.is_first(), g_c,
                 memory.sums->from_state);
    }
    if (slice.has_g_state()) {
      pass_state(memory.x, memory.g_state, memory.b, decays.to_end, slice.is_first(), g_b,
                 memory.sums->to_state);
    }
    __syncthreads();  // M and the sums have arrived
    if (warp == kWarps - 1 && slice.is_last()) finish_dt(slice, *memory.sums, decays, memory.dt);
    write_g_x(slice, memory);
  }

  __syncthreads();  // nobody still reads M
  Square::for_each_pair([&](int block, int j, int half, int l, int s) {
    const float* pair = pairs.values[block][j] + 2 * half;
    store_pair(memory.square.at(l, s), pair[0], pair[1]);
  });
  __syncthreads();
#pragma unroll
  for (int slab = 0; slab < kSlabs; ++slab) {
    const int col = slab * kSlab;
    g_c[slab].template add_product<false, false>(memory.square, memory.b.from_col(col), 0,
                                                 Slab::first_row() + 16);
    g_b[slab].template add_product<true, false>(memory.square, memory.c.from_col(col),
                                                Slab::first_row(), kChunkTokens);
    write_slab(g_c[slab], col, group, group.states(static_cast<T*>(plan.g_c), plan.g_c_stride),
               plan.g_c_stride, plan.is_g_c_paired);
    write_slab(g_b[slab], col, group, group.states(static_cast<T*>(plan.g_b), plan.g_b_stride),
               plan.g_b_stride, plan.is_g_b_paired);
  }
}

template <class T, int kDim, int kState>
void launch(const ScanBackwardPlan& plan, cudaStream_t stream) {
  constexpr int kBytes = Memory<T, kDim, kState>::kBytes;
  const auto kernel = chunk_gradients<T, kDim, kState>;
  VERNIER_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  const dim3 grid(static_cast<unsigned>(plan.n_chunks), static_cast<unsigned>(plan.n_groups));
  kernel<<<grid, kThreads, kBytes, stream>>>(plan);
  check_launch();
}

// Slices as wide as heads, or half of them, where their state fits beside B and C.
template <class T, int kNarrowDim>
void launch_chunks(const ScanBackwardPlan& plan, cudaStream_t stream) {
  if (plan.state_dim > kSlab) return launch<T, kNarrowDim, 2 * kSlab>(plan, stream);
  if (plan.head_dim <= 32) return launch<T, 32, kSlab>(plan, stream);
  if (plan.head_dim > 64 && plan.head_dim <= 80) return launch<T, 80, kSlab>(plan, stream);
  launch<T, 64, kSlab>(plan, stream);
}

}  // namespace

void launch_chunk_gradients_bf16(const ScanBackwardPlan& plan, cudaStream_t stream) {
  launch_chunks<__nv_bfloat16, 32>(plan, stream);
}
void launch_chunk_gradients_f32(const ScanBackwardPlan& plan, cudaStream_t stream) {
  launch_chunks<float, 16>(plan, stream);
}

}  // namespace vernier::kernels::cuda
