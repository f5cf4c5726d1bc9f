// How causal attention is cut into blocks on a device, and what a block knows of its piece.
//
// A row is a (token, query head) pair of one kv head: token = row / heads_per_kv. A tile is
// `tile_rows` consecutive rows; the token's heads share each read of the cache, when prefilling and
// when decoding. A block takes one tile and one split of its keys. Where there is more than one
// split, blocks leave partial results, which a second kernel merges in order.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "kernels/sequence_search_cuda.h"
#include "tensor/dtype.h"

namespace vernier::kernels::cuda {

inline constexpr int kBlockKeys = 64;     // keys between two updates of the running softmax
inline constexpr int kMaxSequences = 64;  // of one launch: the table travels with its arguments
inline constexpr int kMaxHeadDim = 256;

// A head's channels are padded with zeros to one of the widths that kernels are built for.
inline int padded_dim(int head_dim) { return head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256; }

struct AttentionPlan {
  struct Sequence {
    const void* k;
    const void* v;
    int64_t k_stride, v_stride;  // in elements
    int64_t first_row;           // of q and y
    int64_t first_partial;       // where its partial results begin, in rows
    int32_t first_block;
    int32_t first_merged;  // outputs that the merging kernel makes for sequences before
    int32_t first_position;
    int32_t n_rows;  // tokens * heads_per_kv
    int32_t n_tiles;
    int32_t n_splits;
    int32_t keys_per_split;  // a multiple of kBlockKeys
  };

  const void* q;
  void* y;
  int64_t q_stride, y_stride;
  int32_t heads_per_kv, n_kv_heads, head_dim;
  int32_t tile_rows;
  float score_scale;  // k_scale * log2(e) / sqrt(head_dim): exponentials are powers of two
  float value_scale;
  bool is_q_aligned, is_y_aligned, is_cache_aligned;  // rows of heads may be copied 16 bytes a time
  int32_t n_blocks, n_merged;
  // Of every partial row: the largest score, not scaled, the sum of weights, and padded_dim sums of
  // weighted values.
  float* partial_max;
  float* partial_sum;
  float* partial_values;
  int32_t n_sequences;
  Sequence sequences[kMaxSequences];
};

// Queue the blocks of a plan. `elems`: the type of q and the caches.
void launch_attention_bf16(const AttentionPlan& plan, DType elems, cudaStream_t stream);
void launch_attention_f32(const AttentionPlan& plan, DType elems, cudaStream_t stream);

#if defined(__CUDACC__)

// A block's piece.
struct AttentionTile {
  const AttentionPlan::Sequence& sequence;
  int32_t kv_head;
  int32_t split;
  int32_t first_row;  // of the sequence's rows of this kv head
  int32_t n_rows;
  int32_t first_key, end_key;  // end <= first where causality leaves the split nothing

  __device__ int32_t token(const AttentionPlan& plan, int32_t row) const {
    return (first_row + row) / plan.heads_per_kv;
  }
  // The last key that a row of the tile sees.
  __device__ int32_t last_key(const AttentionPlan& plan, int32_t row) const {
    return sequence.first_position + token(plan, row);
  }
  // Where a row's channels lie in q or y.
  __device__ int64_t offset(const AttentionPlan& plan, int32_t row, int64_t stride) const {
    const int32_t at = token(plan, row);
    const int32_t head = kv_head * plan.heads_per_kv + first_row + row - at * plan.heads_per_kv;
    return (sequence.first_row + at) * stride + int64_t{head} * plan.head_dim;
  }
  __device__ int64_t partial(int32_t row) const {
    const int64_t part = int64_t{kv_head} * sequence.n_splits + split;
    return sequence.first_partial + part * sequence.n_rows + first_row + row;
  }
};

// The last tiles see the most keys: they go first, so that no block is left with a long one.
__device__ inline AttentionTile find_tile(const AttentionPlan& plan, int32_t block) {
  const auto& sequence =
      find_sequence(plan.sequences, plan.n_sequences, &AttentionPlan::Sequence::first_block, block);
  int32_t index = block - sequence.first_block;
  const int32_t split = index % sequence.n_splits;
  index /= sequence.n_splits;
  const int32_t kv_head = index % plan.n_kv_heads;
  const int32_t first_row = (sequence.n_tiles - 1 - index / plan.n_kv_heads) * plan.tile_rows;
  AttentionTile tile{sequence, kv_head, split, first_row, 0, 0, 0};
  tile.n_rows = min(plan.tile_rows, sequence.n_rows - first_row);
  tile.first_key = split * sequence.keys_per_split;
  const int32_t n_keys = tile.last_key(plan, tile.n_rows - 1) + 1;
  tile.end_key = min(n_keys, tile.first_key + sequence.keys_per_split);
  return tile;
}

// What exponents are taken relative to: the maximum so far, of nothing seen yet 0, so that neither
// infinity meets itself.
__device__ inline float exponent_base(float max) { return max == -INFINITY ? 0.0f : max; }

#endif

}  // namespace vernier::kernels::cuda
