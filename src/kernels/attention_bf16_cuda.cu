// Causal attention in BF16 on tensor cores: the scores of a tile never leave the registers.
//
// A block is four warps; each owns 16 or 32 of the tile's rows and walks all of its keys, 64 at a
// time: S = Q K^T, running softmax, O += P V, with FP32 sums, P rounded to BF16. Keys and values of
// the next 64 are copied into the second of two buffers meanwhile. With 32 rows a warp reads 40 KiB
// of shared memory for 256 products of 16 x 8 x 16, which tensor cores take longer for; 16 rows
// serve decoding, where a tile has few rows and the cache's bytes are the cost. Rows that are not
// aligned take the same way by single elements.
//
// E4M3 codes of Q and K are multiplied as they are, 16 x 8 x 32 at a time: a fragment of four codes
// lies where two BF16 would. Codes of V arrive as bytes and are decoded into a BF16 tile.
//
// Error: scores as an FP32 product of BF16 factors, or as an FP8 product, whose sums are cut off at
// 2^-13 of the largest of 32 terms; weights 2^-9 from rounding P.
#include "kernels/attention_plan_cuda.h"
#include "kernels/attention_tile_cuda.h"
#include "kernels/shared_memory_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;

template <int kDim>
constexpr int kCacheTileBytes = 2 * kDim* kBlockKeys;

// Q, keys and values of two buffers.
template <int kDim, int kRowTiles>
constexpr int kSharedBytes = 2 * kDim * 16 * kRowTiles* kWarps + 4 * kCacheTileBytes<kDim>;

template <int kDim, class Elem>
__device__ void load_queries(const AttentionPlan& plan, const AttentionTile& tile, std::byte* to) {
  constexpr int kElems = 16 / sizeof(Elem);
  constexpr int kChunks = kDim / kElems;
  const auto* q = static_cast<const Elem*>(plan.q);
  for (int index = threadIdx.x; index < plan.tile_rows * kChunks; index += kThreads) {
    const int row = index / kChunks;
    const int chunk = index % kChunks;
    const bool is_inside = row < tile.n_rows;
    const Elem* from = is_inside ? q + tile.offset(plan, row, plan.q_stride) + chunk * kElems : q;
    copy_chunk(chunk_at<kDim>(to, row, chunk), from, is_inside ? plan.head_dim - chunk * kElems : 0,
               plan.is_q_aligned);
  }
}

// Keys or values [first_key, first_key + 64) of the tile's head, zeros from end_key on. `place`
// gives the address of a row's chunk.
template <int kDim, class Elem, class Place>
__device__ void load_cache(const AttentionPlan& plan, const AttentionTile& tile, const void* cache,
                           int64_t stride, int first_key, Place place) {
  constexpr int kElems = 16 / sizeof(Elem);
  constexpr int kChunks = kDim / kElems;
  const auto* head = static_cast<const Elem*>(cache) + int64_t{tile.kv_head} * plan.head_dim;
#pragma unroll 4
  for (int index = threadIdx.x; index < kBlockKeys * kChunks; index += kThreads) {
    const int row = index / kChunks;
    const int chunk = index % kChunks;
    const bool is_inside = first_key + row < tile.end_key;
    const Elem* from = is_inside ? head + (first_key + row) * stride + chunk * kElems : head;
    copy_chunk(place(row, chunk), from, is_inside ? plan.head_dim - chunk * kElems : 0,
               plan.is_cache_aligned);
  }
}

// Decodes 64 rows of kDim codes into a tile.
template <int kDim>
__device__ void decode_tile(const std::byte* codes, std::byte* to) {
  constexpr int kChunks = kDim / 16;
  for (int index = threadIdx.x; index < kBlockKeys * kChunks; index += kThreads) {
    const uint4 from = reinterpret_cast<const uint4*>(codes)[index];
    const uint32_t words[4] = {from.x, from.y, from.z, from.w};
    const int row = index / kChunks;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint4 pairs;
      pairs.x = bf16_pair_of_e4m3(words[2 * half]);
      pairs.y = bf16_pair_of_e4m3(words[2 * half] >> 16);
      pairs.z = bf16_pair_of_e4m3(words[2 * half + 1]);
      pairs.w = bf16_pair_of_e4m3(words[2 * half + 1] >> 16);
      *reinterpret_cast<uint4*>(chunk_at<kDim>(to, row, index % kChunks * 2 + half)) = pairs;
    }
  }
}

// The two buffers of a block's keys and values. Values of codes are decoded into one tile, beside
// which lie both buffers' codes.
template <int kDim, class Elem>
struct CacheBuffers {
  static constexpr bool kIsCoded = sizeof(Elem) == 1;
  static constexpr int kTile = kCacheTileBytes<kDim>;
  std::byte* memory;

  __device__ std::byte* keys(int buffer) const { return memory + buffer * kTile; }
  // In BF16.
  __device__ std::byte* values(int buffer) const {
    return memory + (2 + (kIsCoded ? 0 : buffer)) * kTile;
  }
  __device__ std::byte* value_codes(int buffer) const {
    return memory + 3 * kTile + buffer * (kTile / 2);
  }

  __device__ void load(const AttentionPlan& plan, const AttentionTile& tile, int first_key,
                       int buffer) const {
    const auto& sequence = tile.sequence;
    std::byte* const k = keys(buffer);
    std::byte* const v = kIsCoded ? value_codes(buffer) : values(buffer);
    load_cache<kDim, Elem>(plan, tile, sequence.k, sequence.k_stride, first_key,
                           [=](int row, int chunk) { return chunk_at<kDim>(k, row, chunk); });
    load_cache<kDim, Elem>(
        plan, tile, sequence.v, sequence.v_stride, first_key, [=](int row, int chunk) {
          return kIsCoded ? v + row * kDim + chunk * 16 : chunk_at<kDim>(v, row, chunk);
        });
  }

  // Makes a loaded buffer ready for products; all threads have seen it arrive.
  __device__ void decode(int buffer) const {
    if constexpr (kIsCoded) {
      decode_tile<kDim>(value_codes(buffer), values(buffer));
      __syncthreads();
    }
  }
};

// A warp's rows, 16 kRowTiles of them, in fragments: element [tile][half] is of row 16 tile + 8
// half + lane / 4.
template <int kDim, int kRowTiles>
struct WarpRows {
  using Scores = TileProducts<kRowTiles>;

  float max[kRowTiles][2];  // of scores not yet scaled
  float sum[kRowTiles][2];  // of the weights that this lane has computed
  float values[kRowTiles][kDim / 8][4];

  // The row, of the warp's, of a lane's elements.
  __device__ static int row_of(int r, int half) {
    return 16 * r + 8 * half + static_cast<int>(threadIdx.x) % 32 / 4;
  }

  __device__ void start() {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      max[r][0] = max[r][1] = -INFINITY;
      sum[r][0] = sum[r][1] = 0;
#pragma unroll
      for (auto& fragment : values[r]) {
#pragma unroll
        for (float& value : fragment) value = 0;
      }
    }
  }

  // Hides the keys that a row does not see: those from n_seen(row) on, of the block's.
  template <class Seen>
  __device__ static void mask(Scores& scores, Seen n_seen) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int end = n_seen(row_of(r, half)) - static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
        for (int n = 0; n < kBlockKeys / 8; ++n) {
          if (8 * n >= end) scores[r][n][2 * half] = -INFINITY;
          if (8 * n + 1 >= end) scores[r][n][2 * half + 1] = -INFINITY;
        }
      }
    }
  }

  // Turns scores into weights and moves what rows have gathered to their new maxima.
  __device__ void weigh(Scores& scores, float scale) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float largest = max[r][half];
#pragma unroll
        for (int n = 0; n < kBlockKeys / 8; ++n) {
          largest = fmaxf(largest, fmaxf(scores[r][n][2 * half], scores[r][n][2 * half + 1]));
        }
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
        // The same rounded products before and after, so that an unchanged maximum shrinks nothing.
        const float base = __fmul_rn(exponent_base(largest), scale);
        const float shrink = fast_exp2(__fmul_rn(max[r][half], scale) - base);
        max[r][half] = largest;
        float added = 0;
#pragma unroll
        for (int n = 0; n < kBlockKeys / 8; ++n) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; ++i) {
            scores[r][n][i] = fast_exp2(scores[r][n][i] * scale - base);
            added += scores[r][n][i];
          }
        }
        sum[r][half] = sum[r][half] * shrink + added;
#pragma unroll
        for (int d = 0; d < kDim / 8; ++d) {
          values[r][d][2 * half] *= shrink;
          values[r][d][2 * half + 1] *= shrink;
        }
      }
    }
  }

  // The whole of each row's sum, in every lane that holds a part of the row.
  __device__ void finish() {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (float& total : sum[r]) {
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
      }
    }
  }
};

// Writes the warp's rows to y by way of its own part of the tile of Q, so that stores are of 16
// bytes.
template <int kDim, int kRowTiles>
__device__ void write_rows(const AttentionPlan& plan, const AttentionTile& tile,
                           const WarpRows<kDim, kRowTiles>& rows, int first_row,
                           std::byte* queries) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float factor = plan.value_scale / rows.sum[r][half];
#pragma unroll
      for (int d = 0; d < kDim / 8; ++d) {
        const float* pair = &rows.values[r][d][2 * half];
        std::byte* chunk = chunk_at<kDim>(queries, rows.row_of(r, half), d);
        reinterpret_cast<uint32_t*>(chunk)[lane % 4] =
            bf16_pair(pair[0] * factor, pair[1] * factor);
      }
    }
  }
  __syncwarp();
  constexpr int kChunks = kDim / 8;
  auto* y = static_cast<uint16_t*>(plan.y);
  for (int index = lane; index < 16 * kRowTiles * kChunks; index += 32) {
    const int row = index / kChunks;
    const int col = index % kChunks * 8;
    if (first_row + row >= tile.n_rows || col >= plan.head_dim) continue;
    const std::byte* from = chunk_at<kDim>(queries, row, index % kChunks);
    uint16_t* to = y + tile.offset(plan, first_row + row, plan.y_stride) + col;
    if (plan.is_y_aligned) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    } else {
      const int n_elems = min(8, plan.head_dim - col);
      for (int i = 0; i < n_elems; ++i) to[i] = reinterpret_cast<const uint16_t*>(from)[i];
    }
  }
}

template <int kDim, int kRowTiles>
__device__ void write_partials(const AttentionPlan& plan, const AttentionTile& tile,
                               const WarpRows<kDim, kRowTiles>& rows, int first_row) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + rows.row_of(r, half);
      if (row >= tile.n_rows) continue;
      const int64_t partial = tile.partial(row);
      if (lane % 4 == 0) {
        plan.partial_max[partial] = rows.max[r][half];
        plan.partial_sum[partial] = rows.sum[r][half];
      }
      float* to = plan.partial_values + partial * kDim + lane % 4 * 2;
#pragma unroll
      for (int d = 0; d < kDim / 8; ++d) {
        const float* pair = &rows.values[r][d][2 * half];
        *reinterpret_cast<float2*>(to + 8 * d) = make_float2(pair[0], pair[1]);
      }
    }
  }
}

template <int kDim, int kRowTiles, class Elem>
__global__ void __launch_bounds__(kThreads, kDim > 128 ? 1 : 2)
    attend(const __grid_constant__ AttentionPlan plan) {
  const AttentionTile tile = find_tile(plan, blockIdx.x);
  const int first_row = threadIdx.x / 32 * 16 * kRowTiles;  // of this warp
  std::byte* memory = dynamic_shared();
  std::byte* queries = memory + first_row * kDim * 2;
  const CacheBuffers<kDim, Elem> cache{memory + kWarps * 16 * kRowTiles * kDim * 2};
  WarpRows<kDim, kRowTiles> rows;
  rows.start();

  if (tile.first_key < tile.end_key) {
    load_queries<kDim, Elem>(plan, tile, memory);
    cache.load(plan, tile, tile.first_key, 0);
  }
  int buffer = 0;
  for (int key = tile.first_key; key < tile.end_key; key += kBlockKeys) {
    wait_for_copies();
    __syncthreads();  // this buffer has arrived, and nobody still reads the other
    if (key + kBlockKeys < tile.end_key) cache.load(plan, tile, key + kBlockKeys, buffer ^ 1);
    cache.decode(buffer);
    if (first_row < tile.n_rows) {
      typename WarpRows<kDim, kRowTiles>::Scores scores;
      multiply_tile<kDim, Elem, kRowTiles>(queries, cache.keys(buffer), scores);
      if (key + kBlockKeys - 1 > tile.last_key(plan, first_row)) {
        rows.mask(scores, [&](int row) { return tile.last_key(plan, first_row + row) + 1 - key; });
      }
      rows.weigh(scores, plan.score_scale);
      add_weighted_tile<kDim, kRowTiles, kDim>(scores, cache.values(buffer), 0, rows.values);
    }
    buffer ^= 1;
  }
  if (first_row >= tile.n_rows) return;
  rows.finish();
  if (tile.sequence.n_splits == 1) {
    write_rows(plan, tile, rows, first_row, queries);
  } else {
    write_partials(plan, tile, rows, first_row);
  }
}

template <int kDim, int kRowTiles, class Elem>
void launch(const AttentionPlan& plan, cudaStream_t stream) {
  constexpr int kBytes = kSharedBytes<kDim, kRowTiles>;
  VERNIER_CUDA(cudaFuncSetAttribute(attend<kDim, kRowTiles, Elem>,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  attend<kDim, kRowTiles, Elem><<<plan.n_blocks, kThreads, kBytes, stream>>>(plan);
  check_launch();
}

template <class Elem>
void launch_for(const AttentionPlan& plan, cudaStream_t stream) {
  const int dim = padded_dim(plan.head_dim);
  const bool is_tall = plan.tile_rows == 128;
  if (dim == 64)
    return is_tall ? launch<64, 2, Elem>(plan, stream) : launch<64, 1, Elem>(plan, stream);
  if (dim == 128)
    return is_tall ? launch<128, 2, Elem>(plan, stream) : launch<128, 1, Elem>(plan, stream);
  launch<256, 1, Elem>(plan, stream);
}

}  // namespace

void launch_attention_bf16(const AttentionPlan& plan, DType elems, cudaStream_t stream) {
  if (elems == DType::kF8E4M3) return launch_for<uint8_t>(plan, stream);
  launch_for<uint16_t>(plan, stream);
}

}  // namespace vernier::kernels::cuda
