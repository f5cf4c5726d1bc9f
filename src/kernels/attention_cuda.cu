// Causal attention on a device: the plan of a launch, and the kernel that merges split keys.
//
// Work is cut so that a block has a tile of rows and all of its keys, unless that leaves processors
// idle (decoding over long caches): then a sequence's keys are split evenly, about two blocks a
// processor in all. Lengths and the number of processors alone decide, so results do not depend on
// timing.
#include <cuda_bf16.h>

#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "base/error.h"
#include "kernels/attention_plan_cuda.h"
#include "kernels/cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kShortTile = 64;
constexpr int kTallTile = 128;
constexpr int64_t kMinSplitKeys = 256;  // fewer would cost more in merging than they save
constexpr int kMergeWarps = 8;

int64_t ceil_div(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }

// What results relative to `max` weigh among those relative to `largest`.
__device__ float weight_of(const AttentionPlan& plan, float max, float largest) {
  return exp2f((max - exponent_base(largest)) * plan.score_scale);
}

// One block makes one head of one token. Its warps take every eighth split, in order, and then the
// warps' results are merged in order.
template <int kDim, class T>
__global__ void __launch_bounds__(32 * kMergeWarps)
    merge_splits(const __grid_constant__ AttentionPlan plan) {
  const auto& sequence = find_sequence(plan.sequences, plan.n_sequences,
                                       &AttentionPlan::Sequence::first_merged, blockIdx.x);
  const int32_t index = blockIdx.x - sequence.first_merged;
  const AttentionTile row{sequence, index / sequence.n_rows, 0, index % sequence.n_rows, 1, 0, 0};
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  __shared__ float warp_max[kMergeWarps];
  __shared__ float warp_sum[kMergeWarps];
  __shared__ float warp_values[kMergeWarps][kDim];

  float max = -INFINITY;
  float sum = 0;
  float values[kDim / 32] = {};
#pragma unroll 4
  for (int split = warp; split < sequence.n_splits; split += kMergeWarps) {
    const int64_t partial = row.partial(0) + int64_t{split} * sequence.n_rows;
    const float split_max = plan.partial_max[partial];
    const float largest = fmaxf(max, split_max);
    const float shrink = weight_of(plan, max, largest);
    const float factor = weight_of(plan, split_max, largest);
    max = largest;
    sum = sum * shrink + plan.partial_sum[partial] * factor;
#pragma unroll
    for (int i = 0; i < kDim / 32; ++i) {
      values[i] = values[i] * shrink + plan.partial_values[partial * kDim + 32 * i + lane] * factor;
    }
  }
  if (lane == 0) {
    warp_max[warp] = max;
    warp_sum[warp] = sum;
  }
#pragma unroll
  for (int i = 0; i < kDim / 32; ++i) warp_values[warp][32 * i + lane] = values[i];
  __syncthreads();

  float largest = -INFINITY;
  for (const float each : warp_max) largest = fmaxf(largest, each);
  float total = 0;
  for (int w = 0; w < kMergeWarps; ++w) {
    total += warp_sum[w] * weight_of(plan, warp_max[w], largest);
  }
  T* y = static_cast<T*>(plan.y) + row.offset(plan, 0, plan.y_stride);
  for (int col = threadIdx.x; col < plan.head_dim; col += 32 * kMergeWarps) {
    float value = 0;
    for (int w = 0; w < kMergeWarps; ++w) {
      value += warp_values[w][col] * weight_of(plan, warp_max[w], largest);
    }
    y[col] = static_cast<T>(value * (plan.value_scale / total));
  }
}

template <class T>
void launch_merge(const AttentionPlan& plan, cudaStream_t stream) {
  const int dim = padded_dim(plan.head_dim);
  const auto kernel = dim == 64    ? merge_splits<64, T>
                      : dim == 128 ? merge_splits<128, T>
                                   : merge_splits<256, T>;
  kernel<<<plan.n_merged, 32 * kMergeWarps, 0, stream>>>(plan);
  check_launch();
}

// Rows of heads begin at multiples of 16 bytes and are as long.
bool is_aligned(ConstAnyMatrixView matrix, int64_t head_dim) {
  const int64_t elem = matrix.elem_bytes();
  return reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 && matrix.row_stride * elem % 16 == 0 &&
         head_dim * elem % 16 == 0;
}

class Planner {
 public:
  Planner(const AttentionShape& shape, ConstAnyMatrixView q, AnyMatrixView y)
      : n_processors_(vernier::cuda(y.device).properties().multiProcessorCount), plan_{} {
    plan_.q = q.data;
    plan_.y = y.data;
    plan_.q_stride = q.row_stride;
    plan_.y_stride = y.row_stride;
    plan_.heads_per_kv = static_cast<int32_t>(shape.n_heads / shape.n_kv_heads);
    plan_.n_kv_heads = static_cast<int32_t>(shape.n_kv_heads);
    plan_.head_dim = static_cast<int32_t>(shape.head_dim);
    plan_.score_scale = static_cast<float>(shape.k_scale * std::numbers::log2e /
                                           std::sqrt(static_cast<double>(shape.head_dim)));
    plan_.value_scale = shape.v_scale;
    plan_.is_q_aligned = is_aligned(q, shape.head_dim);
    plan_.is_y_aligned = is_aligned(y, shape.head_dim);
    allows_tall_ = y.dtype == DType::kBF16 && padded_dim(plan_.head_dim) <= 128;
  }

  // The plan of up to kMaxSequences sequences, none of them empty; memory of partial results is
  // not set.
  AttentionPlan plan(std::span<const AttentionSequence> sequences) {
    choose_tiles(sequences);
    plan_.n_sequences = static_cast<int32_t>(sequences.size());
    plan_.n_blocks = plan_.n_merged = 0;
    plan_.is_cache_aligned = true;
    n_partials_ = 0;
    const int64_t fair_keys = std::max(kMinSplitKeys, total_keys(sequences) / (2 * n_processors_));
    for (size_t i = 0; i < sequences.size(); ++i) {
      plan_.sequences[i] = planned(sequences[i], fair_keys);
    }
    return plan_;
  }
  int64_t n_partials() const { return n_partials_; }

 private:
  int64_t rows_of(const AttentionSequence& sequence) const {
    return sequence.n_rows * plan_.heads_per_kv;
  }
  int64_t tiles_of(const AttentionSequence& sequence) const {
    return ceil_div(rows_of(sequence), plan_.tile_rows);
  }
  // What a row sees on average.
  static int64_t mean_keys(const AttentionSequence& sequence) {
    return sequence.first_position + (sequence.n_rows + 1) / 2;
  }

  // Tall tiles read less, short ones are more.
  void choose_tiles(std::span<const AttentionSequence> sequences) {
    int64_t n_rows = 0;
    for (const auto& sequence : sequences) n_rows += rows_of(sequence) * plan_.n_kv_heads;
    const bool is_tall = allows_tall_ && n_rows >= kTallTile * n_processors_;
    plan_.tile_rows = is_tall ? kTallTile : kShortTile;
  }

  // Over all blocks of unsplit sequences.
  int64_t total_keys(std::span<const AttentionSequence> sequences) const {
    int64_t total = 0;
    for (const auto& each : sequences) total += mean_keys(each) * tiles_of(each) * plan_.n_kv_heads;
    return total;
  }

  AttentionPlan::Sequence planned(const AttentionSequence& from, int64_t fair_keys) {
    const int64_t n_keys = from.first_position + from.n_rows;
    const int64_t wanted_splits = std::max<int64_t>(1, mean_keys(from) / fair_keys);
    const int64_t split_keys = ceil_div(ceil_div(n_keys, wanted_splits), kBlockKeys) * kBlockKeys;
    AttentionPlan::Sequence to = {};
    to.k = from.k.data;
    to.v = from.v.data;
    to.k_stride = from.k.row_stride;
    to.v_stride = from.v.row_stride;
    to.first_row = from.first_row;
    to.first_partial = n_partials_;
    to.first_block = plan_.n_blocks;
    to.first_merged = plan_.n_merged;
    to.first_position = static_cast<int32_t>(from.first_position);
    to.n_rows = static_cast<int32_t>(rows_of(from));
    to.n_tiles = static_cast<int32_t>(tiles_of(from));
    to.n_splits = static_cast<int32_t>(ceil_div(n_keys, split_keys));
    to.keys_per_split = static_cast<int32_t>(split_keys);
    plan_.n_blocks += to.n_tiles * plan_.n_kv_heads * to.n_splits;
    if (to.n_splits > 1) {
      plan_.n_merged += to.n_rows * plan_.n_kv_heads;
      n_partials_ += int64_t{to.n_rows} * plan_.n_kv_heads * to.n_splits;
    }
    for (const auto& cache : {from.k, from.v}) {
      plan_.is_cache_aligned = plan_.is_cache_aligned && is_aligned(cache, plan_.head_dim);
    }
    return to;
  }

  int64_t n_processors_;
  bool allows_tall_ = false;
  int64_t n_partials_ = 0;
  AttentionPlan plan_;
};

void run(AttentionPlan plan, int64_t n_partials, DType elems, AnyMatrixView y) {
  const cudaStream_t stream = stream_of(y.device);
  const int64_t dim = padded_dim(plan.head_dim);
  Vector<float> partials;
  if (n_partials > 0) {
    partials = Vector<float>(n_partials * (dim + 2), y.device);
    plan.partial_values = partials.view().data;
    plan.partial_max = plan.partial_values + n_partials * dim;
    plan.partial_sum = plan.partial_max + n_partials;
  }
  if (y.dtype == DType::kBF16) {
    launch_attention_bf16(plan, elems, stream);
    if (n_partials > 0) launch_merge<__nv_bfloat16>(plan, stream);
  } else {
    launch_attention_f32(plan, elems, stream);
    if (n_partials > 0) launch_merge<float>(plan, stream);
  }
}

}  // namespace

void causal_attention(const AttentionShape& shape, ConstAnyMatrixView q,
                      std::span<const AttentionSequence> sequences, AnyMatrixView y) {
  if (shape.head_dim > kMaxHeadDim) {
    throw Error(ErrorKind::kUnsupported,
                "attention with head_dim " + std::to_string(shape.head_dim) +
                    " on a device: at most " + std::to_string(kMaxHeadDim) + " is supported");
  }
  std::vector<AttentionSequence> present;
  for (const auto& sequence : sequences) {
    if (sequence.n_rows > 0) present.push_back(sequence);
  }
  Planner planner(shape, q, y);
  for (size_t first = 0; first < present.size(); first += kMaxSequences) {
    const size_t n = std::min<size_t>(kMaxSequences, present.size() - first);
    const AttentionPlan plan = planner.plan(std::span(present).subspan(first, n));
    run(plan, planner.n_partials(), q.dtype, y);
  }
}

}  // namespace vernier::kernels::cuda
