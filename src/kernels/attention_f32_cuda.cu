// Causal attention in FP32, the BF16 kernel's structure in plain products.
//
// A block is 16 x 16 threads and takes a tile of 64 rows; it walks the tile's keys, 64 at a time,
// with Q, K and V in shared memory, codes decoded. Thread (ty, tx) computes the scores of rows 4 ty
// .. 4 ty + 3 and keys tx, tx + 16, ..., then the sums of values of the same rows and channels 4 tx
// .. 4 tx + 3 of every 64. Rows in shared memory are 4 words longer than needed, so that eight of
// them lie in different banks. A score is summed over channels in order, a value over keys in
// order.
#include "formats/e4m3.h"
#include "kernels/attention_plan_cuda.h"
#include "kernels/shared_memory_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kTileRows = 64;
constexpr int kThreads = 256;
constexpr int kScoreStride = kBlockKeys + 4;

template <int kDim>
constexpr int kStride = kDim + 4;

template <int kDim>
constexpr int kSharedBytes = ((kTileRows + 2 * kBlockKeys) * kStride<kDim> +
                              kTileRows * kScoreStride) *
                             4;

__device__ float decoded(float value) { return value; }
__device__ float decoded(uint8_t code) { return formats::e4m3_to_float(code); }

// Four elements, those from n_inside on zero.
template <class T>
__device__ float4 load_four(const T* from, int n_inside, bool is_aligned) {
  struct alignas(4 * sizeof(T)) Four {
    T elems[4];
  };
  Four four = {};
  if (is_aligned && n_inside > 0) {
    four = *reinterpret_cast<const Four*>(from);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < n_inside) four.elems[i] = from[i];
    }
  }
  return make_float4(decoded(four.elems[0]), decoded(four.elems[1]), decoded(four.elems[2]),
                     decoded(four.elems[3]));
}

// Fills 64 rows in shared memory; source(row) gives a row's elements, null for one of zeros.
template <int kDim, class Source>
__device__ void load_rows(float* to, int head_dim, bool is_aligned, Source source) {
#pragma unroll 4
  for (int index = threadIdx.x; index < 64 * kDim / 4; index += kThreads) {
    const int row = index / (kDim / 4);
    const int col = index % (kDim / 4) * 4;
    const auto* from = source(row);
    const int n_inside = from == nullptr ? 0 : head_dim - col;
    *reinterpret_cast<float4*>(to + row * kStride<kDim> + col) =
        load_four(from + col, n_inside, is_aligned);
  }
}

template <int kDim, class Elem>
__device__ void load_cache(const AttentionPlan& plan, const AttentionTile& tile, const void* cache,
                           int64_t stride, int first_key, float* to) {
  const auto* head = static_cast<const Elem*>(cache) + int64_t{tile.kv_head} * plan.head_dim;
  load_rows<kDim>(to, plan.head_dim, plan.is_cache_aligned, [&](int row) {
    return first_key + row < tile.end_key ? head + (first_key + row) * stride : nullptr;
  });
}

// A thread's four rows.
template <int kDim>
struct ThreadRows {
  float max[4];  // of scores not yet scaled
  float sum[4];  // of the weights that this thread has computed
  float4 values[4][kDim / 64];

  __device__ void start() {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      max[i] = -INFINITY;
      sum[i] = 0;
#pragma unroll
      for (float4& value : values[i]) value = make_float4(0, 0, 0, 0);
    }
  }

  // queries: the first of the four rows. keys: the first of the four keys, 16 rows apart.
  __device__ void score(const float* queries, const float* keys, float (&scores)[4][4]) const {
#pragma unroll
    for (auto& row : scores) {
#pragma unroll
      for (float& score : row) score = 0;
    }
#pragma unroll 4
    for (int col = 0; col < kDim; col += 4) {
      float4 k[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        k[j] = *reinterpret_cast<const float4*>(keys + j * 16 * kStride<kDim> + col);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float4 q = *reinterpret_cast<const float4*>(queries + i * kStride<kDim> + col);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          scores[i][j] = fmaf(q.x, k[j].x, scores[i][j]);
          scores[i][j] = fmaf(q.y, k[j].y, scores[i][j]);
          scores[i][j] = fmaf(q.z, k[j].z, scores[i][j]);
          scores[i][j] = fmaf(q.w, k[j].w, scores[i][j]);
        }
      }
    }
  }

  // Turns scores into weights and moves what rows have gathered to their new maxima. A row's
  // threads are 16 neighbouring lanes.
  __device__ void weigh(float (&scores)[4][4], float scale) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float largest = max[i];
#pragma unroll
      for (const float score : scores[i]) largest = fmaxf(largest, score);
#pragma unroll
      for (int step = 1; step < 16; step *= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
      }
      const float base = exponent_base(largest);
      const float shrink = exp2f((max[i] - base) * scale);
      max[i] = largest;
      sum[i] *= shrink;
#pragma unroll
      for (float& score : scores[i]) {
        score = exp2f((score - base) * scale);
        sum[i] += score;
      }
#pragma unroll
      for (float4& value : values[i]) {
        value = make_float4(value.x * shrink, value.y * shrink, value.z * shrink, value.w * shrink);
      }
    }
  }

  // values += weights V. weights: the first of the four rows in shared memory. cached: the
  // thread's first channel of the first key.
  __device__ void gather(const float* weights, const float* cached) {
#pragma unroll 2
    for (int key = 0; key < kBlockKeys; key += 4) {
      float4 weight[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weight[i] = *reinterpret_cast<const float4*>(weights + i * kScoreStride + key);
      }
#pragma unroll
      for (int d = 0; d < kDim / 64; ++d) {
        const float* from = cached + key * kStride<kDim> + 64 * d;
        float4 v[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          v[j] = *reinterpret_cast<const float4*>(from + j * kStride<kDim>);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          add(weight[i].x, v[0], values[i][d]);
          add(weight[i].y, v[1], values[i][d]);
          add(weight[i].z, v[2], values[i][d]);
          add(weight[i].w, v[3], values[i][d]);
        }
      }
    }
  }

  __device__ void finish() {
#pragma unroll
    for (float& total : sum) {
#pragma unroll
      for (int step = 1; step < 16; step *= 2) total += __shfl_xor_sync(~0u, total, step);
    }
  }

 private:
  __device__ static void add(float weight, const float4& v, float4& to) {
    to = make_float4(fmaf(weight, v.x, to.x), fmaf(weight, v.y, to.y), fmaf(weight, v.z, to.z),
                     fmaf(weight, v.w, to.w));
  }
};

// Writes to y, or where keys are split to the partial results.
template <int kDim>
__device__ void write_row(const AttentionPlan& plan, const AttentionTile& tile, int row,
                          const float4 (&values)[kDim / 64], float max, float sum) {
  const int lane = threadIdx.x % 16;
  if (tile.sequence.n_splits == 1) {
    float* to = static_cast<float*>(plan.y) + tile.offset(plan, row, plan.y_stride);
    const float factor = plan.value_scale / sum;
#pragma unroll
    for (int d = 0; d < kDim / 64; ++d) {
      const float channels[4] = {values[d].x, values[d].y, values[d].z, values[d].w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int col = 64 * d + 4 * lane + i;
        if (col < plan.head_dim) to[col] = channels[i] * factor;
      }
    }
    return;
  }
  const int64_t partial = tile.partial(row);
  if (lane == 0) {
    plan.partial_max[partial] = max;
    plan.partial_sum[partial] = sum;
  }
#pragma unroll
  for (int d = 0; d < kDim / 64; ++d) {
    *reinterpret_cast<float4*>(plan.partial_values + partial * kDim + 64 * d + 4 * lane) =
        values[d];
  }
}

template <int kDim, class Elem>
__global__ void __launch_bounds__(kThreads) attend(const __grid_constant__ AttentionPlan plan) {
  const AttentionTile tile = find_tile(plan, blockIdx.x);
  float* queries = reinterpret_cast<float*>(dynamic_shared());  // [64, kStride]
  float* keys = queries + kTileRows * kStride<kDim>;            // [64, kStride]
  float* values = keys + kBlockKeys * kStride<kDim>;            // [64, kStride]
  float* weights = values + kBlockKeys * kStride<kDim>;         // [64, kScoreStride]
  const int tx = threadIdx.x % 16;
  const int first_row = threadIdx.x / 16 * 4;
  const bool has_rows = threadIdx.x / 32 * 8 < tile.n_rows;  // the warp has
  ThreadRows<kDim> rows;
  rows.start();

  const auto* q = static_cast<const Elem*>(plan.q);
  load_rows<kDim>(queries, plan.head_dim, plan.is_q_aligned, [&](int row) {
    return row < tile.n_rows ? q + tile.offset(plan, row, plan.q_stride) : nullptr;
  });
  for (int key = tile.first_key; key < tile.end_key; key += kBlockKeys) {
    __syncthreads();  // nobody still reads the block before
    const auto& sequence = tile.sequence;
    load_cache<kDim, Elem>(plan, tile, sequence.k, sequence.k_stride, key, keys);
    load_cache<kDim, Elem>(plan, tile, sequence.v, sequence.v_stride, key, values);
    __syncthreads();
    if (!has_rows) continue;
    float scores[4][4];
    rows.score(queries + first_row * kStride<kDim>, keys + tx * kStride<kDim>, scores);
    for (int i = 0; i < 4; ++i) {
      const int n_seen = tile.last_key(plan, first_row + i) + 1 - key;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (tx + 16 * j >= n_seen) scores[i][j] = -INFINITY;
      }
    }
    rows.weigh(scores, plan.score_scale);
    __syncwarp();  // the rows' weights before have been read
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        weights[(first_row + i) * kScoreStride + tx + 16 * j] = scores[i][j];
      }
    }
    __syncwarp();
    rows.gather(weights + first_row * kScoreStride, values + 4 * tx);
  }
  if (!has_rows) return;
  rows.finish();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (first_row + i >= tile.n_rows) continue;
    write_row<kDim>(plan, tile, first_row + i, rows.values[i], rows.max[i], rows.sum[i]);
  }
}

template <int kDim, class Elem>
void launch(const AttentionPlan& plan, cudaStream_t stream) {
  constexpr int kBytes = kSharedBytes<kDim>;
  VERNIER_CUDA(cudaFuncSetAttribute(attend<kDim, Elem>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    kBytes));
  attend<kDim, Elem><<<plan.n_blocks, kThreads, kBytes, stream>>>(plan);
  check_launch();
}

template <class Elem>
void launch_for(const AttentionPlan& plan, cudaStream_t stream) {
  const int dim = padded_dim(plan.head_dim);
  if (dim == 64) return launch<64, Elem>(plan, stream);
  if (dim == 128) return launch<128, Elem>(plan, stream);
  launch<256, Elem>(plan, stream);
}

}  // namespace

void launch_attention_f32(const AttentionPlan& plan, DType elems, cudaStream_t stream) {
  if (elems == DType::kF8E4M3) return launch_for<uint8_t>(plan, stream);
  launch_for<float>(plan, stream);
}

}  // namespace vernier::kernels::cuda
