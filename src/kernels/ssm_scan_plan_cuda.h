// How the Mamba-2 scan is cut into blocks on a device, and what a block knows of its piece.
//
// A piece is a slice of head_dim of one head of one sequence: the rows of a state do not meet one
// another. It walks all of the sequence's tokens.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace vernier::kernels::cuda {

inline constexpr int kChunkTokens = 64;       // tokens between two updates of the state
inline constexpr int kMaxScanSequences = 64;  // of one launch: the table travels with its arguments
inline constexpr int kMaxStateDim = 256;

struct ScanPlan {
  struct Sequence {
    int64_t first_row;
    int64_t n_rows;
    float* state;
    int64_t state_stride;
  };

  const void* x;
  const void* b;
  const void* c;
  void* y;
  const float* dt;
  const float* a;
  const float* d;
  int64_t x_stride, b_stride, c_stride, y_stride, dt_stride;  // in elements
  int32_t n_heads, head_dim, heads_per_group, state_dim;
  int32_t chunk_tokens;  // at most kChunkTokens
  int32_t slice_dim;     // channels of a piece
  int32_t n_slices;
  // Rows of heads and groups may be copied 16 bytes a time.
  bool is_x_aligned, is_bc_aligned, is_y_aligned;
  bool is_state_aligned;
  int32_t n_sequences;
  Sequence sequences[kMaxScanSequences];

  __host__ __device__ int32_t n_pieces() const { return n_sequences * n_heads * n_slices; }
};

// Queue a plan of the chunked form. slice_dim: at most what the launcher has asked for.
void launch_scan_bf16(const ScanPlan& plan, cudaStream_t stream);
void launch_scan_f32(const ScanPlan& plan, cudaStream_t stream);
// The most channels that a piece of that state_dim may have. `is_narrow`: half a piece or less, for
// launches that would leave processors idle.
int max_slice_bf16(int head_dim, int state_dim, bool is_narrow);
int max_slice_f32(int state_dim, bool is_narrow);
// Queues a plan of the recurrence, with slices of kRecurrentRows.
inline constexpr int kRecurrentRows = 8;
void launch_recurrence_bf16(const ScanPlan& plan, cudaStream_t stream);
void launch_recurrence_f32(const ScanPlan& plan, cudaStream_t stream);

#if defined(__CUDACC__)

// One piece, T the type of x, b, c and y.
template <class T>
struct ScanPiece {
  const ScanPlan& plan;
  const ScanPlan::Sequence& sequence;
  int head;
  int first_channel;  // of the head
  int n_channels;

  __device__ ScanPiece(const ScanPlan& plan, int index)
      : plan(plan), sequence(plan.sequences[index / plan.n_slices / plan.n_heads]) {
    head = index / plan.n_slices % plan.n_heads;
    first_channel = index % plan.n_slices * plan.slice_dim;
    n_channels = min(plan.slice_dim, plan.head_dim - first_channel);
  }

  // Where the piece's data of a token of the sequence begin.
  __device__ const T* x(int64_t token) const { return channels(plan.x, plan.x_stride, token); }
  __device__ T* y(int64_t token) const {
    return const_cast<T*>(channels(plan.y, plan.y_stride, token));
  }
  __device__ const T* b(int64_t token) const { return group(plan.b, plan.b_stride, token); }
  __device__ const T* c(int64_t token) const { return group(plan.c, plan.c_stride, token); }
  __device__ const float* dt(int64_t token) const {
    return plan.dt + (sequence.first_row + token) * plan.dt_stride + head;
  }
  // The piece's first row of the state.
  __device__ float* state() const {
    return sequence.state + (int64_t{head} * plan.head_dim + first_channel) * sequence.state_stride;
  }

 private:
  __device__ const T* channels(const void* data, int64_t stride, int64_t token) const {
    return static_cast<const T*>(data) + (sequence.first_row + token) * stride +
           int64_t{head} * plan.head_dim + first_channel;
  }
  __device__ const T* group(const void* data, int64_t stride, int64_t token) const {
    return static_cast<const T*>(data) + (sequence.first_row + token) * stride +
           int64_t{head / plan.heads_per_group} * plan.state_dim;
  }
};

// What the tokens of a chunk weigh. Exponents are of 2. c_l, the sum of dt A to token l, is held in
// two parts: where it is near -1000, differences near 0 still matter, and FP32 would lose four
// digits of exp(c_l - c_s).
struct ChunkDecays {
  float2 sum[kChunkTokens];        // c_l log2(e): head and tail
  float from_start[kChunkTokens];  // exp(c_l)
  float to_end[kChunkTokens];      // exp(c_L - c_s) dt_s
};

// The exponent of exp(c_l - c_s), at most 0 also where rounding would make it positive.
__device__ inline float exponent_between(float2 later, float2 earlier) {
  return fminf(0.0f, (later.x - earlier.x) + (later.y - earlier.y));
}

// Fills the decays of a chunk; dt is 0 beyond its last token. For the first warp of a block. Lanes
// own two tokens each.
__device__ inline void fill_decays(const float* dt, float a, ChunkDecays& decays) {
  const int lane = threadIdx.x;
  const double exponent = double{a} * 1.4426950408889634;
  const double first = dt[2 * lane] * exponent;
  const double both = first + dt[2 * lane + 1] * exponent;
  double sum = both;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const double before = __shfl_up_sync(~0u, sum, distance);
    if (lane >= distance) sum += before;
  }
  const double before = __shfl_up_sync(~0u, sum, 1);
  const double total = __shfl_sync(~0u, sum, 31);
  const double sums[2] = {lane == 0 ? first : before + first, sum};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int token = 2 * lane + i;
    const float head = static_cast<float>(sums[i]);
    decays.sum[token] = make_float2(head, static_cast<float>(sums[i] - head));
    decays.from_start[token] = exp2f(fminf(0.0f, head));
    decays.to_end[token] = exp2f(fminf(0.0f, static_cast<float>(total - sums[i]))) * dt[token];
  }
}

#endif

}  // namespace vernier::kernels::cuda
