// The backward scan on a device: plans of its launches. A pass treats as many groups of heads as
// keep their states within bounds (ssm_scan_backward_scratch.h), in two kernels:
// ssm_scan_backward_states_cuda.cu, then ssm_scan_backward_chunk_cuda.cu; a third, here, sums what
// every chunk adds to g_a and g_d.
#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "kernels/cuda.h"
#include "kernels/packs_cuda.h"
#include "kernels/ssm_scan_backward_plan_cuda.h"
#include "kernels/ssm_scan_backward_scratch.h"
#include "kernels/ssm_scan_plan_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

static_assert(kBackwardChunkTokens == kChunkTokens);

// What the kernels look sequences up in.
struct Tables {
  std::vector<BackwardChunk> chunks;
  std::vector<BackwardSequence> sequences;
  int64_t n_places = 0;
};

Tables tables_of(std::span<const SequenceSpan> sequences, int64_t chunk_tokens) {
  Tables tables;
  for (const auto& [first_row, n_rows] : sequences) {
    const int64_t n_chunks = (n_rows + chunk_tokens - 1) / chunk_tokens;
    const auto first_place = static_cast<int32_t>(tables.n_places);
    for (int64_t chunk = 0; chunk < n_chunks; ++chunk) {
      const int64_t first = chunk * chunk_tokens;
      const int32_t place = first_place + static_cast<int32_t>(chunk);  // after the chunk
      tables.chunks.push_back({static_cast<int32_t>(first_row + first),
                               static_cast<int32_t>(std::min(chunk_tokens, n_rows - first)),
                               chunk == 0 ? -1 : place - 1, chunk + 1 == n_chunks ? -1 : place});
    }
    if (n_chunks < 2) continue;
    tables.sequences.push_back({static_cast<int32_t>(first_row), static_cast<int32_t>(n_rows),
                                static_cast<int32_t>(n_chunks), first_place});
    tables.n_places += n_chunks - 1;
  }
  std::ranges::stable_sort(tables.sequences, std::ranges::greater{}, &BackwardSequence::n_rows);
  return tables;
}

// Both tables, one after the other, as they lie in device memory.
Vector<int32_t> upload(const Tables& tables, Device* device) {
  constexpr size_t kWords = 4;
  static_assert(sizeof(BackwardChunk) == kWords * sizeof(int32_t));
  static_assert(sizeof(BackwardSequence) == kWords * sizeof(int32_t));
  std::vector<int32_t> words;
  words.reserve(kWords * (tables.chunks.size() + tables.sequences.size()));
  for (const auto& [first_row, n_tokens, before, after] : tables.chunks) {
    words.insert(words.end(), {first_row, n_tokens, before, after});
  }
  for (const auto& [first_row, n_rows, n_chunks, first_place] : tables.sequences) {
    words.insert(words.end(), {first_row, n_rows, n_chunks, first_place});
  }
  return Vector<int32_t>(std::span<const int32_t>(words), device);
}

void set_matrices(const SsmShape& shape, const SsmInputs& in, ConstAnyMatrixView g_y,
                  const SsmGradients& out, ScanBackwardPlan& plan) {
  plan.x = in.x.data;
  plan.b = in.b.data;
  plan.c = in.c.data;
  plan.g_y = g_y.data;
  plan.dt = in.dt.as<float>();
  plan.a = in.a.data;
  plan.d = in.d.data;
  plan.g_x = out.x.data;
  plan.g_b = out.b.data;
  plan.g_c = out.c.data;
  plan.g_dt = out.dt.as<float>();
  plan.x_stride = in.x.row_stride;
  plan.b_stride = in.b.row_stride;
  plan.c_stride = in.c.row_stride;
  plan.dt_stride = in.dt.row_stride;
  plan.g_y_stride = g_y.row_stride;
  plan.g_x_stride = out.x.row_stride;
  plan.g_b_stride = out.b.row_stride;
  plan.g_c_stride = out.c.row_stride;
  plan.g_dt_stride = out.dt.row_stride;
  // Parts of `width` columns are whole packs of n elements.
  const auto is_packed = [](ConstAnyMatrixView matrix, int64_t width, int64_t n) {
    return width % n == 0 && has_packs(matrix, n);
  };
  const int64_t pack = 16 / g_y.elem_bytes();
  plan.is_x_aligned = is_packed(in.x, shape.head_dim, pack);
  plan.is_g_y_aligned = is_packed(g_y, shape.head_dim, pack);
  plan.is_b_aligned = is_packed(in.b, shape.state_dim, pack);
  plan.is_c_aligned = is_packed(in.c, shape.state_dim, pack);
  plan.is_g_x_paired = is_packed(out.x, shape.head_dim, 2);
  plan.is_g_b_paired = is_packed(out.b, shape.state_dim, 2);
  plan.is_g_c_paired = is_packed(out.c, shape.state_dim, 2);
}

void set_shape(const SsmShape& shape, ScanBackwardPlan& plan) {
  plan.head_dim = static_cast<int32_t>(shape.head_dim);
  plan.heads_per_group = static_cast<int32_t>(shape.n_heads / shape.n_groups);
  plan.state_dim = static_cast<int32_t>(shape.state_dim);
  plan.state_stride = static_cast<int32_t>(kept_state_stride(shape));
  plan.chunk_tokens = static_cast<int32_t>(backward_chunk_tokens(shape));
}

constexpr int kSumThreads = 128;

// to[head] += sum of parts[.][head]; a block for every head, threads at every kSumThreads-th part.
__global__ void __launch_bounds__(kSumThreads)
    add_parts(const float* parts, int n_parts, int n_heads, float* to) {
  __shared__ double sums[kSumThreads];
  const int head = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  double sum = 0;
  for (int part = thread; part < n_parts; part += kSumThreads) {
    sum += parts[int64_t{part} * n_heads + head];
  }
  sums[thread] = sum;
  for (int n = kSumThreads / 2; n > 0; n /= 2) {
    __syncthreads();
    if (thread < n) sums[thread] += sums[thread + n];
  }
  if (thread == 0) to[head] += static_cast<float>(sums[0]);
}

void run_pass(const ScanBackwardPlan& plan, bool is_bf16, const SsmGradients& out,
              cudaStream_t stream) {
  if (plan.n_sequences > 0) {
    is_bf16 ? launch_keep_states_bf16(plan, stream) : launch_keep_states_f32(plan, stream);
  }
  is_bf16 ? launch_chunk_gradients_bf16(plan, stream) : launch_chunk_gradients_f32(plan, stream);
  const auto add = [&](const float* parts, const VectorView<float>& to) {
    if (parts == nullptr) return;
    add_parts<<<static_cast<unsigned>(plan.n_heads), kSumThreads, 0, stream>>>(
        parts, plan.n_chunks, plan.n_heads, to.data + plan.first_head);
    check_launch();
  };
  add(plan.a_parts, out.a);
  add(plan.d_parts, out.d);
}

}  // namespace

void ssm_scan_backward(const SsmShape& shape, const SsmInputs& inputs,
                       std::span<const SequenceSpan> sequences, ConstAnyMatrixView g_y,
                       const SsmGradients& gradients) {
  if (shape.state_dim > kMaxStateDim) {
    throw Error(ErrorKind::kUnsupported,
                "gradients of a scan with state_dim " + std::to_string(shape.state_dim) +
                    " on a device: at most " + std::to_string(kMaxStateDim) + " is supported");
  }
  const Tables tables = tables_of(sequences, backward_chunk_tokens(shape));
  if (tables.chunks.empty() || shape.n_heads == 0 || shape.head_dim == 0) return;
  Device* const device = g_y.device;
  const Vector<int32_t> words = upload(tables, device);
  ScanBackwardPlan plan = {};
  set_matrices(shape, inputs, g_y, gradients, plan);
  set_shape(shape, plan);
  plan.n_chunks = static_cast<int32_t>(tables.chunks.size());
  plan.n_sequences = static_cast<int32_t>(tables.sequences.size());
  plan.chunks = reinterpret_cast<const BackwardChunk*>(words.view().data);
  plan.sequences = reinterpret_cast<const BackwardSequence*>(plan.chunks + plan.n_chunks);

  const int64_t heads_per_group = shape.n_heads / shape.n_groups;
  const int64_t n_groups = groups_at_once(shape, inputs.x.rows);
  const int64_t n_heads = n_groups * heads_per_group;
  const int64_t n_states = tables.n_places * n_heads * shape.head_dim * kept_state_stride(shape);
  Vector<float> states(std::max<int64_t>(1, 2 * n_states), device);
  Vector<float> parts(2 * plan.n_chunks * n_heads, device);
  plan.states = states.view().data;
  plan.g_states = plan.states + n_states;
  if (!gradients.a.empty()) plan.a_parts = parts.view().data;
  if (!gradients.d.empty()) plan.d_parts = parts.view().data + plan.n_chunks * n_heads;
  for (int64_t first = 0; first < shape.n_groups; first += n_groups) {
    plan.first_group = static_cast<int32_t>(first);
    plan.n_groups = static_cast<int32_t>(std::min(n_groups, shape.n_groups - first));
    plan.first_head = static_cast<int32_t>(first * heads_per_group);
    plan.n_heads = static_cast<int32_t>(plan.n_groups * heads_per_group);
    run_pass(plan, g_y.dtype == DType::kBF16, gradients, stream_of(device));
  }
}

}  // namespace vernier::kernels::cuda
