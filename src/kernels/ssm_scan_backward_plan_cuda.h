// How the backward scan is cut into blocks on a device: what its kernels are told.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace vernier::kernels::cuda {

// A chunk of a sequence. Places number the boundaries between chunks, all sequences': there a state
// and its gradient are kept.
struct BackwardChunk {
  int32_t first_row;
  int32_t n_tokens;
  int32_t place_before;  // -1: the sequence begins here, with a zero state
  int32_t place_after;   // -1: it ends here
};

// A sequence of several chunks.
struct BackwardSequence {
  int32_t first_row;
  int32_t n_rows;
  int32_t n_chunks;
  int32_t first_place;
};

struct ScanBackwardPlan {
  const void* x;
  const void* b;
  const void* c;
  const void* g_y;
  const float* dt;
  const float* a;
  const float* d;
  void* g_x;
  void* g_b;
  void* g_c;
  float* g_dt;
  // [places, the pass's heads, head_dim, state_stride]: states, and gradients of the same.
  float* states;
  float* g_states;
  float* a_parts;  // [chunks, the pass's heads], or null: not wanted
  float* d_parts;
  const BackwardChunk* chunks;
  const BackwardSequence* sequences;                // the longest first
  int64_t x_stride, b_stride, c_stride, dt_stride;  // in elements
  int64_t g_y_stride, g_x_stride, g_b_stride, g_c_stride, g_dt_stride;
  int32_t n_chunks, n_sequences;
  int32_t head_dim, heads_per_group, state_dim, state_stride;
  int32_t chunk_tokens;
  // This pass's: heads [first_head, first_head + n_heads) are n_groups whole groups.
  int32_t first_group, n_groups;
  int32_t first_head, n_heads;
  // Rows of heads and groups may be copied 16 bytes a time; written two elements a time.
  bool is_x_aligned, is_g_y_aligned, is_b_aligned, is_c_aligned;
  bool is_g_x_paired, is_g_b_paired, is_g_c_paired;

  // The kept state of a place, or its gradient.
  __host__ __device__ int64_t state_at(int64_t place, int head_of_pass, int channel) const {
    return ((place * n_heads + head_of_pass) * head_dim + channel) * state_stride;
  }
};

// Fills states and g_states.
void launch_keep_states_bf16(const ScanBackwardPlan& plan, cudaStream_t stream);
void launch_keep_states_f32(const ScanBackwardPlan& plan, cudaStream_t stream);
// All gradients from them; of a and d, the parts.
void launch_chunk_gradients_bf16(const ScanBackwardPlan& plan, cudaStream_t stream);
void launch_chunk_gradients_f32(const ScanBackwardPlan& plan, cudaStream_t stream);

}  // namespace vernier::kernels::cuda
