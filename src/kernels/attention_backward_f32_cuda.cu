// Gradients of causal attention in FP32, in plain products.
//
// A block is 16 x 16 threads and takes a tile of 32 rows or keys, its own; it walks tiles of 32
// keys or rows. All four tiles of an S lie in shared memory. Thread (ty, tx) computes the scores of
// its block's rows 2 ty, 2 ty + 1 with the walked rows tx, tx + 16, then sums for its block's same
// rows the channels 4 tx .. 4 tx + 3 of every 64. Rows in shared memory are 4 words longer than
// needed, so that eight of them lie in different banks. Products read a word of shared memory for
// every multiplication: slow, and meant for checks of what BF16 costs.
#include "kernels/attention_backward_plan_cuda.h"
#include "kernels/shared_memory_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kTile = 32;
constexpr int kThreads = 256;
constexpr int kWeightStride = kTile + 4;

template <int kDim>
constexpr int kStride = kDim + 4;
template <int kDim>
constexpr int kTileElems = kTile* kStride<kDim>;
// Two tiles of the block's own, two walked, P and S'.
template <int kDim>
constexpr int kSharedBytes = (4 * kTileElems<kDim> + 2 * kTile * kWeightStride) * 4;

// Fills a tile; source(row) gives a row's elements, null for one of zeros.
template <int kDim, class Source>
__device__ void load_tile(const AttentionBackwardPlan& plan, float* to, Source source) {
#pragma unroll 4
  for (int index = threadIdx.x; index < kTile * kDim / 4; index += kThreads) {
    const int row = index / (kDim / 4);
    const int col = index % (kDim / 4) * 4;
    const float* from = source(row);
    float4 four = make_float4(0, 0, 0, 0);
    if (from != nullptr && col < plan.head_dim) {
      if (plan.is_aligned) {
        four = *reinterpret_cast<const float4*>(from + col);
      } else {
        four.x = from[col];
        if (col + 1 < plan.head_dim) four.y = from[col + 1];
        if (col + 2 < plan.head_dim) four.z = from[col + 2];
        if (col + 3 < plan.head_dim) four.w = from[col + 3];
      }
    }
    *reinterpret_cast<float4*>(to + row * kStride<kDim> + col) = four;
  }
}

template <int kDim>
__device__ void load_rows(const AttentionBackwardTile& tile,
                          const AttentionBackwardPlan::Matrix& matrix, int first, float* to) {
  load_tile<kDim>(tile.plan, to,
                  [&](int row) { return tile.row_of<const float>(matrix, first + row); });
}
template <int kDim>
__device__ void load_keys(const AttentionBackwardTile& tile,
                          const AttentionBackwardPlan::Matrix& matrix, int first, float* to) {
  load_tile<kDim>(tile.plan, to,
                  [&](int key) { return tile.key_of<const float>(matrix, first + key); });
}

// products[i][j] = own row 2 ty + i times walked row tx + 16 j.
template <int kDim>
__device__ void multiply(const float* own, const float* walked, float (&products)[2][2]) {
  own += threadIdx.x / 16 * 2 * kStride<kDim>;
  walked += threadIdx.x % 16 * kStride<kDim>;
#pragma unroll
  for (auto& row : products) row[0] = row[1] = 0;
#pragma unroll 4
  for (int col = 0; col < kDim; col += 4) {
    float4 b[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      b[j] = *reinterpret_cast<const float4*>(walked + j * 16 * kStride<kDim> + col);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float4 a = *reinterpret_cast<const float4*>(own + i * kStride<kDim> + col);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        products[i][j] = fmaf(a.x, b[j].x, products[i][j]);
        products[i][j] = fmaf(a.y, b[j].y, products[i][j]);
        products[i][j] = fmaf(a.z, b[j].z, products[i][j]);
        products[i][j] = fmaf(a.w, b[j].w, products[i][j]);
      }
    }
  }
}

// Channels 64 d + 4 tx .. of the thread's rows 2 ty + i.
template <int kDim>
using Sums = float4[2][kDim / 64];

template <int kDim>
__device__ void start(Sums<kDim>& sums) {
#pragma unroll
  for (auto& row : sums) {
#pragma unroll
    for (float4& sum : row) sum = make_float4(0, 0, 0, 0);
  }
}

__device__ void add_scaled(float factor, const float4& v, float4& to) {
  to = make_float4(fmaf(factor, v.x, to.x), fmaf(factor, v.y, to.y), fmaf(factor, v.z, to.z),
                   fmaf(factor, v.w, to.w));
}

// Hands a warp's factors to all its lanes.
__device__ void exchange(const float (&factors)[2][2], float* shared) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      shared[(threadIdx.x / 16 * 2 + i) * kWeightStride + threadIdx.x % 16 + 16 * j] =
          factors[i][j];
    }
  }
}

// sums += factors times walked rows.
template <int kDim>
__device__ void add_weighted(const float* factors, const float* walked, Sums<kDim>& sums) {
  factors += threadIdx.x / 16 * 2 * kWeightStride;
  walked += threadIdx.x % 16 * 4;
#pragma unroll 2
  for (int row = 0; row < kTile; row += 4) {
    float4 factor[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      factor[i] = *reinterpret_cast<const float4*>(factors + i * kWeightStride + row);
    }
#pragma unroll
    for (int d = 0; d < kDim / 64; ++d) {
      float4 v[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        v[j] = *reinterpret_cast<const float4*>(walked + (row + j) * kStride<kDim> + 64 * d);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        add_scaled(factor[i].x, v[0], sums[i][d]);
        add_scaled(factor[i].y, v[1], sums[i][d]);
        add_scaled(factor[i].z, v[2], sums[i][d]);
        add_scaled(factor[i].w, v[3], sums[i][d]);
      }
    }
  }
}

template <int kDim>
__device__ void write_row(const AttentionBackwardPlan& plan, const float4 (&sums)[kDim / 64],
                          float factor, float* to) {
  if (to == nullptr) return;
#pragma unroll
  for (int d = 0; d < kDim / 64; ++d) {
    const float channels[4] = {sums[d].x, sums[d].y, sums[d].z, sums[d].w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int col = 64 * d + static_cast<int>(threadIdx.x) % 16 * 4 + i;
      if (col < plan.head_dim) to[col] = channels[i] * factor;
    }
  }
}

// Over the 16 lanes that share rows.
__device__ float sum_of_lanes(float value) {
#pragma unroll
  for (int step = 1; step < 16; step *= 2) value += __shfl_xor_sync(~0u, value, step);
  return value;
}
__device__ float max_of_lanes(float value) {
#pragma unroll
  for (int step = 1; step < 16; step *= 2) {
    value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
  }
  return value;
}

// D of a row.
__device__ float mean_of(const AttentionBackwardTile& tile, int row) {
  const auto* g_y = tile.row_of<const float>(tile.plan.g_y, row);
  const auto* y = tile.row_of<const float>(tile.plan.y, row);
  float sum = 0;
  if (y != nullptr) {
    for (int col = threadIdx.x % 16; col < tile.plan.head_dim; col += 16) {
      sum = fmaf(g_y[col], y[col], sum);
    }
  }
  return sum_of_lanes(sum);
}

// A thread's part of the running sums of its rows.
struct RowSums {
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};

  __device__ void add(const float (&scores)[2][2], float log2_scale) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float largest = max_of_lanes(fmaxf(max[i], fmaxf(scores[i][0], scores[i][1])));
      const float shrink = exp2f((max[i] - largest) * log2_scale);
      max[i] = largest;
      sum[i] = sum[i] * shrink + exp2f((scores[i][0] - largest) * log2_scale) +
               exp2f((scores[i][1] - largest) * log2_scale);
    }
  }
  __device__ float log2_of(int i, float log2_scale) const {
    return max[i] * log2_scale + log2f(sum_of_lanes(sum[i]));
  }
};

template <int kDim>
__global__ void __launch_bounds__(kThreads)
    query_gradients(const __grid_constant__ AttentionBackwardPlan plan) {
  const AttentionBackwardTile tile = find_row_tile(plan);
  float* queries = reinterpret_cast<float*>(dynamic_shared());
  float* g_outputs = queries + kTileElems<kDim>;
  float* keys = g_outputs + kTileElems<kDim>;
  float* values = keys + kTileElems<kDim>;
  float* g_scores = values + kTileElems<kDim>;
  const int first_row = tile.first + static_cast<int>(threadIdx.x) / 16 * 2;
  const int end_key = tile.token(tile.end - 1) + 1;
  load_rows<kDim>(tile, plan.q, tile.first, queries);
  load_rows<kDim>(tile, plan.g_y, tile.first, g_outputs);
  const auto is_seen = [&](int key, int i, int j) {
    return key + static_cast<int>(threadIdx.x) % 16 + 16 * j <= tile.token(first_row + i);
  };

  RowSums row_sums;
  for (int key = 0; key < end_key; key += kTile) {
    __syncthreads();  // nobody still reads the tile before
    load_keys<kDim>(tile, plan.k, key, keys);
    __syncthreads();
    float scores[2][2];
    multiply<kDim>(queries, keys, scores);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if (!is_seen(key, i, j)) scores[i][j] = -INFINITY;
      }
    }
    row_sums.add(scores, plan.log2_scale);
  }
  float log_sum[2];
  float mean[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    log_sum[i] = row_sums.log2_of(i, plan.log2_scale);
    mean[i] = mean_of(tile, first_row + i);
    if (threadIdx.x % 16 == 0 && first_row + i < tile.end) {
      plan.log_sums[tile.sum_of(first_row + i)] = log_sum[i];
      plan.means[tile.sum_of(first_row + i)] = mean[i];
    }
  }

  Sums<kDim> g_query;
  start<kDim>(g_query);
  for (int key = 0; key < end_key; key += kTile) {
    __syncthreads();
    load_keys<kDim>(tile, plan.k, key, keys);
    load_keys<kDim>(tile, plan.v, key, values);
    __syncthreads();
    float scores[2][2];
    float g_weights[2][2];
    multiply<kDim>(queries, keys, scores);
    multiply<kDim>(g_outputs, values, g_weights);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float weight = exp2f(fmaf(scores[i][j], plan.log2_scale, -log_sum[i]));
        scores[i][j] = is_seen(key, i, j) ? weight * (g_weights[i][j] - mean[i]) : 0.0f;
      }
    }
    __syncwarp();  // the warp has read its factors before
    exchange(scores, g_scores);
    __syncwarp();
    add_weighted<kDim>(g_scores, keys, g_query);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    write_row<kDim>(plan, g_query[i], plan.scale, tile.row_of<float>(plan.g_q, first_row + i));
  }
}

template <int kDim>
__global__ void __launch_bounds__(kThreads)
    cache_gradients(const __grid_constant__ AttentionBackwardPlan plan) {
  const AttentionBackwardTile tile = find_key_tile(plan);
  float* keys = reinterpret_cast<float*>(dynamic_shared());
  float* values = keys + kTileElems<kDim>;
  float* queries = values + kTileElems<kDim>;
  float* g_outputs = queries + kTileElems<kDim>;
  float* weights = g_outputs + kTileElems<kDim>;
  float* g_scores = weights + kTile * kWeightStride;
  const int first_key = tile.first + static_cast<int>(threadIdx.x) / 16 * 2;
  load_keys<kDim>(tile, plan.k, tile.first, keys);
  load_keys<kDim>(tile, plan.v, tile.first, values);

  Sums<kDim> g_key;
  Sums<kDim> g_value;
  start<kDim>(g_key);
  start<kDim>(g_value);
  const int n_rows = tile.sequence.n_rows;
  for (int first = tile.first * plan.heads_per_kv; first < n_rows; first += kTile) {
    __syncthreads();  // nobody still reads the tile before
    load_rows<kDim>(tile, plan.q, first, queries);
    load_rows<kDim>(tile, plan.g_y, first, g_outputs);
    __syncthreads();
    float scores[2][2];
    float g_weights[2][2];
    multiply<kDim>(keys, queries, scores);
    multiply<kDim>(values, g_outputs, g_weights);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int row = first + static_cast<int>(threadIdx.x) % 16 + 16 * j;
      const int last_key = row < n_rows ? tile.token(row) : -1;
      const float log_sum = row < n_rows ? plan.log_sums[tile.sum_of(row)] : 0.0f;
      const float mean = row < n_rows ? plan.means[tile.sum_of(row)] : 0.0f;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float weight = exp2f(fmaf(scores[i][j], plan.log2_scale, -log_sum));
        scores[i][j] = first_key + i <= last_key ? weight : 0.0f;
        g_weights[i][j] = scores[i][j] * (g_weights[i][j] - mean);
      }
    }
    __syncwarp();  // the warp has read its factors before
    exchange(scores, weights);
    exchange(g_weights, g_scores);
    __syncwarp();
    add_weighted<kDim>(weights, g_outputs, g_value);
    add_weighted<kDim>(g_scores, queries, g_key);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    write_row<kDim>(plan, g_key[i], plan.scale, tile.key_of<float>(plan.g_k, first_key + i));
    write_row<kDim>(plan, g_value[i], 1, tile.key_of<float>(plan.g_v, first_key + i));
  }
}

template <int kDim>
void launch(const AttentionBackwardPlan& plan, cudaStream_t stream) {
  launch_tiles<kThreads, kSharedBytes<kDim>>(query_gradients<kDim>, cache_gradients<kDim>, plan,
                                             stream);
}

}  // namespace

void launch_attention_backward_f32(const AttentionBackwardPlan& plan, cudaStream_t stream) {
  const int dim = padded_dim(plan.head_dim);
  if (dim == 64) return launch<64>(plan, stream);
  if (dim == 128) return launch<128>(plan, stream);
  launch<256>(plan, stream);
}

}  // namespace vernier::kernels::cuda
