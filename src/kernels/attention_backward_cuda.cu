// Gradients of causal attention on a device: the plan of a launch.
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "base/error.h"
#include "kernels/attention_backward_plan_cuda.h"
#include "kernels/cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

// Tiles of the kernels in BF16 and in FP32.
constexpr int kBf16Tile = 64;
constexpr int kF32Tile = 32;
// Channels of g_k and g_v that fit in the registers of a BF16 block.
constexpr int kPartChannels = 128;

int32_t ceil_div(int64_t n, int64_t unit) { return static_cast<int32_t>((n + unit - 1) / unit); }

AttentionBackwardPlan::Matrix place_of(ConstAnyMatrixView matrix) {
  return {const_cast<void*>(matrix.data), matrix.row_stride};
}

bool is_aligned(ConstAnyMatrixView matrix, int64_t head_dim) {
  const int64_t elem = matrix.elem_bytes();
  return reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 && matrix.row_stride * elem % 16 == 0 &&
         head_dim * elem % 16 == 0;
}

bool are_aligned(const AttentionBackward& op) {
  for (const ConstAnyMatrixView& each : {op.q, op.k, op.v, op.y, op.g_y, ConstAnyMatrixView(op.g_q),
                                         ConstAnyMatrixView(op.g_k), ConstAnyMatrixView(op.g_v)}) {
    if (!is_aligned(each, op.shape.head_dim)) return false;
  }
  return true;
}

// All but the sequences and the memory of results.
AttentionBackwardPlan empty_plan(const AttentionBackward& op) {
  AttentionBackwardPlan plan = {};
  plan.q = place_of(op.q);
  plan.k = place_of(op.k);
  plan.v = place_of(op.v);
  plan.y = place_of(op.y);
  plan.g_y = place_of(op.g_y);
  plan.g_q = place_of(op.g_q);
  plan.g_k = place_of(op.g_k);
  plan.g_v = place_of(op.g_v);
  plan.heads_per_kv = static_cast<int32_t>(op.shape.n_heads / op.shape.n_kv_heads);
  plan.n_kv_heads = static_cast<int32_t>(op.shape.n_kv_heads);
  plan.head_dim = static_cast<int32_t>(op.shape.head_dim);
  const bool is_bf16 = op.q.dtype == DType::kBF16;
  plan.tile = is_bf16 ? kBf16Tile : kF32Tile;
  plan.n_parts = is_bf16 ? ceil_div(padded_dim(plan.head_dim), kPartChannels) : 1;
  const double scale = 1 / std::sqrt(static_cast<double>(op.shape.head_dim));
  plan.scale = static_cast<float>(scale);
  plan.log2_scale = static_cast<float>(scale * std::numbers::log2e);
  plan.is_aligned = are_aligned(op);
  return plan;
}

// Adds up to kMaxSequences sequences, none of them empty; returns the number of rows of all heads.
int64_t add_sequences(std::span<const SequenceSpan> sequences, AttentionBackwardPlan& plan) {
  int64_t n_sums = 0;
  for (const SequenceSpan& from : sequences) {
    AttentionBackwardPlan::Sequence& to = plan.sequences[plan.n_sequences++];
    to.first_token = from.first_row;
    to.first_sum = n_sums;
    to.n_tokens = static_cast<int32_t>(from.n_rows);
    to.n_rows = static_cast<int32_t>(from.n_rows * plan.heads_per_kv);
    to.first_row_block = plan.n_row_blocks;
    to.first_key_block = plan.n_key_blocks;
    plan.n_row_blocks += ceil_div(to.n_rows, plan.tile) * plan.n_kv_heads;
    plan.n_key_blocks += ceil_div(to.n_tokens, plan.tile) * plan.n_kv_heads * plan.n_parts;
    n_sums += int64_t{to.n_rows} * plan.n_kv_heads;
  }
  return n_sums;
}

}  // namespace

void causal_attention_backward(const AttentionBackward& op,
                               std::span<const SequenceSpan> sequences) {
  if (op.shape.head_dim > kMaxHeadDim) {
    throw Error(ErrorKind::kUnsupported,
                "gradients of attention with head_dim " + std::to_string(op.shape.head_dim) +
                    " on a device: at most " + std::to_string(kMaxHeadDim) + " is supported");
  }
  std::vector<SequenceSpan> present;
  for (const auto& sequence : sequences) {
    if (sequence.n_rows > 0) present.push_back(sequence);
  }
  Device* const device = op.q.device;
  for (size_t first = 0; first < present.size(); first += kMaxSequences) {
    const size_t n = std::min<size_t>(kMaxSequences, present.size() - first);
    AttentionBackwardPlan plan = empty_plan(op);
    const int64_t n_sums = add_sequences(std::span(present).subspan(first, n), plan);
    Vector<float> results(2 * n_sums, device);
    plan.log_sums = results.view().data;
    plan.means = plan.log_sums + n_sums;
    if (op.q.dtype == DType::kBF16) {
      launch_attention_backward_bf16(plan, stream_of(device));
    } else {
      launch_attention_backward_f32(plan, stream_of(device));
    }
  }
}

}  // namespace vernier::kernels::cuda
