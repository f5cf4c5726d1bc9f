// Gradients of causal attention in BF16 on tensor cores: P and S' of a tile never leave the
// registers.
//
// A block is four warps with 16 rows or keys each of its own tile of 64; it walks tiles of 64 keys
// or rows, the next of which are copied into the second of two buffers meanwhile. With keys for own
// rows everything is transposed: P^T = 2^(K Q^T - log sums), S'^T likewise, so that both kernels
// multiply own rows by walked ones and then weights by walked ones. A block of heads wider than 128
// sums one half of the channels of g_k and g_v, since registers hold 128 of each, and computes P
// and S' anew.
//
// Operations for an element of S, 2 head_dim each: 4 in the first kernel (S twice, g_y V^T, S' K)
// and 4 in the second (S, g_y V^T, P^T g_y, S'^T Q); an element is a (row, key) pair that is seen.
// A warp reads 2.5 KiB of shared memory for 16 x 64 x 16 of S, 20 cycles of a processor where its
// tensor cores take 8: at best 2/5 of their rate. 32 rows a warp would read half as much for it,
// but two gradients of 32 rows do not fit in the registers.
//
// Error: P and S' round to BF16, 2^-9 each; the rest is FP32 products of BF16 factors.
#include "kernels/attention_backward_plan_cuda.h"
#include "kernels/attention_tile_cuda.h"
#include "kernels/shared_memory_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kTile = kBlockKeys;
constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
static_assert(kTile == 16 * kWarps);

template <int kDim>
constexpr int kTileBytes = 2 * kDim* kTile;
// Channels of g_k and g_v that a block sums.
template <int kDim>
constexpr int kPart = kDim < 128 ? kDim : 128;

// What the second kernel knows of walked rows.
struct RowResults {
  float log_sum[kTile];  // infinite for rows beyond the sequence: their weights are zero
  float mean[kTile];
  int32_t token[kTile];
};

// Two own tiles and two buffers of two walked ones.
template <int kDim>
constexpr int kSharedBytes = 6 * kTileBytes<kDim> + 2 * static_cast<int>(sizeof(RowResults));

using Products = TileProducts<1>;

// Starts to copy a tile; source(row) gives a row's elements, null for one of zeros.
template <int kDim, class Source>
__device__ void load_tile(const AttentionBackwardPlan& plan, std::byte* to, Source source) {
  constexpr int kChunks = kDim / 8;
#pragma unroll 4
  for (int index = threadIdx.x; index < kTile * kChunks; index += kThreads) {
    const int row = index / kChunks;
    const int chunk = index % kChunks;
    const uint16_t* from = source(row);
    const bool is_inside = from != nullptr && chunk * 8 < plan.head_dim;
    copy_chunk(chunk_at<kDim>(to, row, chunk),
               is_inside ? from + chunk * 8 : static_cast<const uint16_t*>(plan.q.data),
               is_inside ? plan.head_dim - chunk * 8 : 0, plan.is_aligned);
  }
}

template <int kDim>
__device__ void load_rows(const AttentionBackwardTile& tile,
                          const AttentionBackwardPlan::Matrix& matrix, int first, std::byte* to) {
  load_tile<kDim>(tile.plan, to,
                  [&](int row) { return tile.row_of<const uint16_t>(matrix, first + row); });
}
template <int kDim>
__device__ void load_keys(const AttentionBackwardTile& tile,
                          const AttentionBackwardPlan::Matrix& matrix, int first, std::byte* to) {
  load_tile<kDim>(tile.plan, to,
                  [&](int key) { return tile.key_of<const uint16_t>(matrix, first + key); });
}

template <int kCols>
__device__ void start(float (&sums)[1][kCols / 8][4]) {
#pragma unroll
  for (auto& fragment : sums[0]) {
#pragma unroll
    for (float& sum : fragment) sum = 0;
  }
}

// Of a lane's elements in a fragment, half 0 or 1: the row among the warp's 16.
__device__ int row_of_half(int half) { return 8 * half + static_cast<int>(threadIdx.x) % 32 / 4; }
// The first of a lane's two columns in fragment n.
__device__ int col_of(int n) { return 8 * n + static_cast<int>(threadIdx.x) % 4 * 2; }

// Writes kCols channels of the warp's 16 rows, by way of a tile's rows that only the warp reads, so
// that stores are of 16 bytes. target(row) gives a row's channels, null for one that is not stored.
template <int kDim, int kCols, class Target>
__device__ void write_rows(const AttentionBackwardPlan& plan, const float (&sums)[1][kCols / 8][4],
                           float factor, int first_col, std::byte* staging, Target target) {
  const int lane = threadIdx.x % 32;
  __syncwarp();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int d = 0; d < kCols / 8; ++d) {
      const float* pair = &sums[0][d][2 * half];
      std::byte* chunk = chunk_at<kDim>(staging, row_of_half(half), d);
      reinterpret_cast<uint32_t*>(chunk)[lane % 4] = bf16_pair(pair[0] * factor, pair[1] * factor);
    }
  }
  __syncwarp();
  constexpr int kChunks = kCols / 8;
  for (int index = lane; index < 16 * kChunks; index += 32) {
    const int row = index / kChunks;
    const int col = first_col + index % kChunks * 8;
    uint16_t* to = target(row);
    if (to == nullptr || col >= plan.head_dim) continue;
    const std::byte* from = chunk_at<kDim>(staging, row, index % kChunks);
    if (plan.is_aligned) {
      *reinterpret_cast<uint4*>(to + col) = *reinterpret_cast<const uint4*>(from);
    } else {
      const int n_elems = min(8, plan.head_dim - col);
      for (int i = 0; i < n_elems; ++i) to[col + i] = reinterpret_cast<const uint16_t*>(from)[i];
    }
  }
}

__device__ float float_of(uint16_t bf16) { return __uint_as_float(uint32_t{bf16} << 16); }

// D of a row; 0 of one beyond the sequence.
__device__ float mean_of(const AttentionBackwardTile& tile, int row) {
  const auto* g_y = tile.row_of<const uint16_t>(tile.plan.g_y, row);
  const auto* y = tile.row_of<const uint16_t>(tile.plan.y, row);
  float total = 0;
  if (y != nullptr) {
    for (int col = threadIdx.x % 32; col < tile.plan.head_dim; col += 32) {
      total = fmaf(float_of(g_y[col]), float_of(y[col]), total);
    }
  }
#pragma unroll
  for (int step = 1; step < 32; step *= 2) total += __shfl_xor_sync(~0u, total, step);
  return total;
}

// The sums of a warp's 16 rows, in the lanes that hold their fragments.
struct RowSums {
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};  // of the weights that this lane has computed
  float mean[2];          // D

  // Of rows from `first` on.
  __device__ void find_means(const AttentionBackwardTile& tile, int first) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll 4
      for (int row = 0; row < 8; ++row) {
        const float total = mean_of(tile, first + 8 * half + row);
        if (row == lane / 4) mean[half] = total;
      }
    }
  }

  __device__ void add(const Products& scores, float log2_scale) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = max[half];
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n) {
        largest = fmaxf(largest, fmaxf(scores[0][n][2 * half], scores[0][n][2 * half + 1]));
      }
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
      sum[half] *= fast_exp2((max[half] - largest) * log2_scale);
      max[half] = largest;
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n) {
        sum[half] += fast_exp2((scores[0][n][2 * half] - largest) * log2_scale);
        sum[half] += fast_exp2((scores[0][n][2 * half + 1] - largest) * log2_scale);
      }
    }
  }

  // log2 of the sums of 2^(S log2_scale), in every lane that holds a part of the row.
  __device__ float log_sum(int half, float log2_scale) const {
    float total = sum[half];
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    return fmaf(max[half], log2_scale, log2f(total));
  }
};

// Hides the keys from `first_key` on that rows, from `first_row` on, do not see.
__device__ void mask_keys(const AttentionBackwardTile& tile, int first_row, int first_key,
                          Products& scores) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int last = tile.token(first_row + row_of_half(half)) - first_key;
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
      if (col_of(n) > last) scores[0][n][2 * half] = -INFINITY;
      if (col_of(n) + 1 > last) scores[0][n][2 * half + 1] = -INFINITY;
    }
  }
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, kDim > 128 ? 1 : 2)
    query_gradients(const __grid_constant__ AttentionBackwardPlan plan) {
  const AttentionBackwardTile tile = find_row_tile(plan);
  const int warp = threadIdx.x / 32;
  const int first_row = tile.first + 16 * warp;  // of this warp
  std::byte* queries = dynamic_shared();
  std::byte* g_outputs = queries + kTileBytes<kDim>;
  std::byte* walked = g_outputs + kTileBytes<kDim>;  // keys, values, keys, values
  std::byte* own_queries = queries + 16 * warp * kDim * 2;
  std::byte* own_g_outputs = g_outputs + 16 * warp * kDim * 2;
  const int n_blocks = (tile.token(tile.end - 1) + kTile) / kTile;
  // Steps 0 .. n_blocks - 1 find the rows' sums, as many more their gradients.
  const auto load = [&](int step) {
    std::byte* to = walked + step % 2 * (2 * kTileBytes<kDim>);
    const int first_key = step % n_blocks * kTile;
    load_keys<kDim>(tile, plan.k, first_key, to);
    if (step >= n_blocks) load_keys<kDim>(tile, plan.v, first_key, to + kTileBytes<kDim>);
  };

  load_rows<kDim>(tile, plan.q, tile.first, queries);
  load_rows<kDim>(tile, plan.g_y, tile.first, g_outputs);
  load(0);
  RowSums sums;
  sums.find_means(tile, first_row);
  float log_sum[2] = {};
  float g_query[1][kDim / 8][4];
  start<kDim>(g_query);
  for (int step = 0; step < 2 * n_blocks; ++step) {
    wait_for_copies();
    __syncthreads();  // this buffer has arrived, and nobody still reads the other
    if (step + 1 < 2 * n_blocks) load(step + 1);
    std::byte* keys = walked + step % 2 * (2 * kTileBytes<kDim>);
    const int first_key = step % n_blocks * kTile;
    Products scores;
    multiply_tile<kDim, uint16_t, 1>(own_queries, keys, scores);
    if (first_key + kTile - 1 > tile.token(first_row)) {
      mask_keys(tile, first_row, first_key, scores);
    }
    if (step < n_blocks) {
      sums.add(scores, plan.log2_scale);
      continue;
    }
    if (step == n_blocks) {
#pragma unroll
      for (int half = 0; half < 2; ++half) log_sum[half] = sums.log_sum(half, plan.log2_scale);
    }
    Products g_scores;
    multiply_tile<kDim, uint16_t, 1>(own_g_outputs, keys + kTileBytes<kDim>, g_scores);
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float weight = fast_exp2(fmaf(scores[0][n][i], plan.log2_scale, -log_sum[i / 2]));
        g_scores[0][n][i] = weight * (g_scores[0][n][i] - sums.mean[i / 2]);
      }
    }
    add_weighted_tile<kDim, 1, kDim>(g_scores, keys, 0, g_query);
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + row_of_half(half);
    if (threadIdx.x % 4 == 0 && row < tile.end) {
      plan.log_sums[tile.sum_of(row)] = log_sum[half];
      plan.means[tile.sum_of(row)] = sums.mean[half];
    }
  }
  write_rows<kDim, kDim>(plan, g_query, plan.scale, 0, own_queries,
                         [&](int row) { return tile.row_of<uint16_t>(plan.g_q, first_row + row); });
}

__device__ void load_results(const AttentionBackwardTile& tile, int first, RowResults& to) {
  if (threadIdx.x >= kTile) return;
  const int row = first + static_cast<int>(threadIdx.x);
  const bool is_inside = row < tile.sequence.n_rows;
  to.log_sum[threadIdx.x] = is_inside ? tile.plan.log_sums[tile.sum_of(row)] : INFINITY;
  to.mean[threadIdx.x] = is_inside ? tile.plan.means[tile.sum_of(row)] : 0.0f;
  to.token[threadIdx.x] = tile.token(row);
}

// Turns a warp's scores, of its keys from `first_key` on with the walked rows, into weights.
__device__ void weigh(const RowResults& rows, int first_key, float log2_scale, Products& scores) {
#pragma unroll
  for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = col_of(n) + i % 2;
      const float weight = fast_exp2(fmaf(scores[0][n][i], log2_scale, -rows.log_sum[row]));
      scores[0][n][i] = first_key + row_of_half(i / 2) <= rows.token[row] ? weight : 0.0f;
    }
  }
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, kDim > 128 ? 1 : 2)
    cache_gradients(const __grid_constant__ AttentionBackwardPlan plan) {
  const AttentionBackwardTile tile = find_key_tile(plan);
  const int warp = threadIdx.x / 32;
  const int first_key = tile.first + 16 * warp;  // of this warp
  const int first_col = tile.part * kPart<kDim>;
  std::byte* keys = dynamic_shared();
  std::byte* values = keys + kTileBytes<kDim>;
  std::byte* walked = values + kTileBytes<kDim>;  // queries, g_outputs, queries, g_outputs
  auto* results = reinterpret_cast<RowResults*>(walked + 4 * kTileBytes<kDim>);
  std::byte* own_keys = keys + 16 * warp * kDim * 2;
  std::byte* own_values = values + 16 * warp * kDim * 2;
  const auto load = [&](int first, int buffer) {
    std::byte* to = walked + buffer * (2 * kTileBytes<kDim>);
    load_rows<kDim>(tile, plan.q, first, to);
    load_rows<kDim>(tile, plan.g_y, first, to + kTileBytes<kDim>);
    load_results(tile, first, results[buffer]);
  };

  // The first row that sees the tile's first key.
  int row = tile.first * plan.heads_per_kv;
  load_keys<kDim>(tile, plan.k, tile.first, keys);
  load_keys<kDim>(tile, plan.v, tile.first, values);
  load(row, 0);
  float g_key[1][kPart<kDim> / 8][4];
  float g_value[1][kPart<kDim> / 8][4];
  start<kPart<kDim>>(g_key);
  start<kPart<kDim>>(g_value);
  for (int buffer = 0; row < tile.sequence.n_rows; row += kTile, buffer ^= 1) {
    wait_for_copies();
    __syncthreads();  // this buffer has arrived, and nobody still reads the other
    if (row + kTile < tile.sequence.n_rows) load(row + kTile, buffer ^ 1);
    std::byte* queries = walked + buffer * (2 * kTileBytes<kDim>);
    std::byte* g_outputs = queries + kTileBytes<kDim>;
    Products weights;
    multiply_tile<kDim, uint16_t, 1>(own_keys, queries, weights);
    weigh(results[buffer], first_key, plan.log2_scale, weights);
    add_weighted_tile<kDim, 1, kPart<kDim>>(weights, g_outputs, first_col, g_value);
    Products g_scores;
    multiply_tile<kDim, uint16_t, 1>(own_values, g_outputs, g_scores);
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        g_scores[0][n][i] =
            weights[0][n][i] * (g_scores[0][n][i] - results[buffer].mean[col_of(n) + i % 2]);
      }
    }
    add_weighted_tile<kDim, 1, kPart<kDim>>(g_scores, queries, first_col, g_key);
  }
  const auto key_of = [&](const AttentionBackwardPlan::Matrix& matrix) {
    return [&](int key) { return tile.key_of<uint16_t>(matrix, first_key + key); };
  };
  write_rows<kDim, kPart<kDim>>(plan, g_key, plan.scale, first_col, own_keys, key_of(plan.g_k));
  write_rows<kDim, kPart<kDim>>(plan, g_value, 1, first_col, own_values, key_of(plan.g_v));
}

template <int kDim>
void launch(const AttentionBackwardPlan& plan, cudaStream_t stream) {
  launch_tiles<kThreads, kSharedBytes<kDim>>(query_gradients<kDim>, cache_gradients<kDim>, plan,
                                             stream);
}

}  // namespace

void launch_attention_backward_bf16(const AttentionBackwardPlan& plan, cudaStream_t stream) {
  const int dim = padded_dim(plan.head_dim);
  if (dim == 64) return launch<64>(plan, stream);
  if (dim == 128) return launch<128>(plan, stream);
  launch<256>(plan, stream);
}

}  // namespace vernier::kernels::cuda
