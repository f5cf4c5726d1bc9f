// How the gradients of causal attention are cut into blocks on a device.
//
// As in attention_plan_cuda.h a row is a (token, query head) pair of one kv head, token = row /
// heads_per_kv. Two kernels follow each other. A block of the first takes a tile of rows and walks
// the keys that they see twice, for the rows' sums and then for g_q; it leaves what the second
// needs of every row: the logarithm of its sum and D. A block of the second takes a tile of keys
// and walks the rows that see them, for g_k and g_v. So every gradient is summed by one thread, in
// order.
//
// Both compute S and g_y V^T, the first S twice: 8 products of 2 head_dim operations an element of
// S, where 5 would do with sums of many blocks added in any order.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "kernels/attention_plan_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {

struct AttentionBackwardPlan {
  struct Sequence {
    int64_t first_token;  // its row of the matrices
    int64_t first_sum;    // where its rows' results begin, [n_kv_heads, n_rows]
    int32_t n_tokens;
    int32_t n_rows;  // tokens * heads_per_kv
    int32_t first_row_block;
    int32_t first_key_block;
  };
  struct Matrix {
    void* data;  // inputs are not written
    int64_t stride;
  };

  Matrix q, k, v, y, g_y, g_q, g_k, g_v;
  int32_t heads_per_kv, n_kv_heads, head_dim;
  int32_t tile;      // rows of a tile of rows, keys of a tile of keys
  int32_t n_parts;   // blocks among which the channels of a tile of keys are divided
  float scale;       // 1 / sqrt(head_dim)
  float log2_scale;  // the same times log2(e): exponentials are powers of two
  bool is_aligned;   // rows of heads may be copied 16 bytes at a time, in all matrices
  float* log_sums;   // log2 of a row's sum of 2^(S log2_scale)
  float* means;      // D
  int32_t n_row_blocks, n_key_blocks;
  int32_t n_sequences;
  Sequence sequences[kMaxSequences];
};

// Queue both kernels.
void launch_attention_backward_bf16(const AttentionBackwardPlan& plan, cudaStream_t stream);
void launch_attention_backward_f32(const AttentionBackwardPlan& plan, cudaStream_t stream);

#if defined(__CUDACC__)

// A block's tile of rows or of keys, and its sequence's layout.
struct AttentionBackwardTile {
  const AttentionBackwardPlan& plan;
  const AttentionBackwardPlan::Sequence& sequence;
  int32_t kv_head;
  int32_t part;
  int32_t first;  // row or key
  int32_t end;

  // The last key that a row sees; rows are counted from the sequence's first.
  __device__ int32_t token(int32_t row) const { return row / plan.heads_per_kv; }

  // A row's channels in q, y and their gradients; of a row beyond the sequence null.
  template <class T>
  __device__ T* row_of(const AttentionBackwardPlan::Matrix& matrix, int32_t row) const {
    if (row >= sequence.n_rows) return nullptr;
    const int32_t at = token(row);
    const int32_t head = kv_head * plan.heads_per_kv + row - at * plan.heads_per_kv;
    return static_cast<T*>(matrix.data) + (sequence.first_token + at) * matrix.stride +
           int64_t{head} * plan.head_dim;
  }
  // The same of a key's in k, v and their gradients.
  template <class T>
  __device__ T* key_of(const AttentionBackwardPlan::Matrix& matrix, int32_t key) const {
    if (key >= sequence.n_tokens) return nullptr;
    return static_cast<T*>(matrix.data) + (sequence.first_token + key) * matrix.stride +
           int64_t{kv_head} * plan.head_dim;
  }
  // Where a row's results lie.
  __device__ int64_t sum_of(int32_t row) const {
    return sequence.first_sum + int64_t{kv_head} * sequence.n_rows + row;
  }
};

// The last tiles of rows see the most keys: they go first.
__device__ inline AttentionBackwardTile find_row_tile(const AttentionBackwardPlan& plan) {
  const auto& sequence =
      find_sequence(plan.sequences, plan.n_sequences,
                    &AttentionBackwardPlan::Sequence::first_row_block, blockIdx.x);
  const int32_t index = blockIdx.x - sequence.first_row_block;
  const int32_t n_tiles = (sequence.n_rows + plan.tile - 1) / plan.tile;
  const int32_t first = (n_tiles - 1 - index / plan.n_kv_heads) * plan.tile;
  return {plan, sequence, index % plan.n_kv_heads,
          0,    first,    min(first + plan.tile, sequence.n_rows)};
}

// The first tiles of keys are seen by the most rows.
__device__ inline AttentionBackwardTile find_key_tile(const AttentionBackwardPlan& plan) {
  const auto& sequence =
      find_sequence(plan.sequences, plan.n_sequences,
                    &AttentionBackwardPlan::Sequence::first_key_block, blockIdx.x);
  int32_t index = blockIdx.x - sequence.first_key_block;
  const int32_t part = index % plan.n_parts;
  index /= plan.n_parts;
  const int32_t first = index / plan.n_kv_heads * plan.tile;
  return {plan, sequence, index % plan.n_kv_heads,
          part, first,    min(first + plan.tile, sequence.n_tokens)};
}

// One kernel after the other: of a head's padded width, over tiles of rows, then of keys.
template <int kThreads, int kBytes, class Kernel>
void launch_tiles(Kernel* query_gradients, Kernel* cache_gradients,
                  const AttentionBackwardPlan& plan, cudaStream_t stream) {
  for (Kernel* kernel : {query_gradients, cache_gradients}) {
    VERNIER_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  }
  query_gradients<<<plan.n_row_blocks, kThreads, kBytes, stream>>>(plan);
  check_launch();
  cache_gradients<<<plan.n_key_blocks, kThreads, kBytes, stream>>>(plan);
  check_launch();
}

#endif

}  // namespace vernier::kernels::cuda
