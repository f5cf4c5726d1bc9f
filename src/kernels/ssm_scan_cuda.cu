// The Mamba-2 scan on a device: plans of its launches. The kernels: ssm_scan_bf16_cuda.cu and
// ssm_scan_f32_cuda.cu, the chunked form; ssm_scan_recurrent_cuda.cu, the recurrence.
//
// A head's chunks come one after another, so what runs side by side are heads and sequences. Where
// they would leave processors idle (one long sequence), heads are cut into narrower slices. Shapes
// and the number of processors alone decide, so results do not depend on timing.
#include <algorithm>
#include <initializer_list>
#include <string>
#include <vector>

#include "base/error.h"
#include "kernels/cuda.h"
#include "kernels/ssm_scan_plan_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

int64_t ceil_div(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }

// Ranges of `width` columns begin at multiples of `bytes` and are as long.
bool is_aligned(ConstAnyMatrixView matrix, int64_t width, int64_t bytes) {
  const int64_t elem = matrix.elem_bytes();
  return reinterpret_cast<uintptr_t>(matrix.data) % static_cast<uint64_t>(bytes) == 0 &&
         matrix.row_stride * elem % bytes == 0 && width * elem % bytes == 0;
}

// Without sequences and slices. `bc_bytes`: how many bytes of B and C are read at once.
ScanPlan plan_of(const SsmShape& shape, const SsmInputs& in, AnyMatrixView y, int64_t bc_bytes) {
  if (shape.state_dim > kMaxStateDim) {
    throw Error(ErrorKind::kUnsupported,
                "a scan with state_dim " + std::to_string(shape.state_dim) +
                    " on a device: at most " + std::to_string(kMaxStateDim) + " is supported");
  }
  ScanPlan plan = {};
  plan.x = in.x.data;
  plan.b = in.b.data;
  plan.c = in.c.data;
  plan.y = y.data;
  plan.dt = in.dt.as<float>();
  plan.a = in.a.data;
  plan.d = in.d.data;
  plan.x_stride = in.x.row_stride;
  plan.b_stride = in.b.row_stride;
  plan.c_stride = in.c.row_stride;
  plan.y_stride = y.row_stride;
  plan.dt_stride = in.dt.row_stride;
  plan.n_heads = static_cast<int32_t>(shape.n_heads);
  plan.head_dim = static_cast<int32_t>(shape.head_dim);
  plan.heads_per_group = static_cast<int32_t>(shape.n_heads / shape.n_groups);
  plan.state_dim = static_cast<int32_t>(shape.state_dim);
  plan.is_x_aligned = is_aligned(in.x, shape.head_dim, 16);
  plan.is_y_aligned = is_aligned(y, shape.head_dim, 16);
  plan.is_bc_aligned =
      is_aligned(in.b, shape.state_dim, bc_bytes) && is_aligned(in.c, shape.state_dim, bc_bytes);
  return plan;
}

// Those that have rows, longest first, so that no block is left with a long one.
std::vector<ScanSequence> in_order(std::span<const ScanSequence> sequences) {
  std::vector<ScanSequence> present;
  for (const ScanSequence& sequence : sequences) {
    if (sequence.n_rows > 0) present.push_back(sequence);
  }
  std::ranges::stable_sort(present, std::ranges::greater{}, &ScanSequence::n_rows);
  return present;
}

void set_slices(ScanPlan& plan, int max_dim) {
  constexpr int kUnit = 8;  // keeps slices as aligned as heads are
  const int64_t n = ceil_div(plan.head_dim, max_dim);
  plan.slice_dim = static_cast<int32_t>(ceil_div(ceil_div(plan.head_dim, n), kUnit) * kUnit);
  plan.n_slices = static_cast<int32_t>(ceil_div(plan.head_dim, plan.slice_dim));
}

// Queues the plan for the sequences, as many at once as its table holds.
template <class Launch>
void run(ScanPlan& plan, std::span<const ScanSequence> sequences, Launch launch) {
  if (plan.n_heads == 0 || plan.head_dim == 0) return;
  for (size_t first = 0; first < sequences.size(); first += kMaxScanSequences) {
    const size_t n = std::min<size_t>(kMaxScanSequences, sequences.size() - first);
    plan.n_sequences = static_cast<int32_t>(n);
    plan.is_state_aligned = true;
    for (size_t i = 0; i < n; ++i) {
      const auto& [first_row, n_rows, state] = sequences[first + i];
      plan.sequences[i] = {first_row, n_rows, state.template as<float>(), state.row_stride};
      plan.is_state_aligned = plan.is_state_aligned && is_aligned(state, plan.state_dim, 16);
    }
    launch(plan);
  }
}

}  // namespace

void ssm_scan_chunked(const SsmShape& shape, const SsmInputs& inputs,
                      std::span<const ScanSequence> sequences, AnyMatrixView y) {
  const bool is_bf16 = y.dtype == DType::kBF16;
  ScanPlan plan = plan_of(shape, inputs, y, 16);
  plan.chunk_tokens = static_cast<int32_t>(std::min<int64_t>(shape.chunk, kChunkTokens));
  const std::vector<ScanSequence> present = in_order(sequences);
  const int64_t n_blocks = std::ssize(present) * shape.n_heads;
  const bool is_narrow =
      n_blocks < 2 * int64_t{vernier::cuda(y.device).properties().multiProcessorCount};
  set_slices(plan, is_bf16 ? max_slice_bf16(plan.head_dim, plan.state_dim, is_narrow)
                           : max_slice_f32(plan.state_dim, is_narrow));
  const cudaStream_t stream = stream_of(y.device);
  run(plan, present, [&](const ScanPlan& part) {
    is_bf16 ? launch_scan_bf16(part, stream) : launch_scan_f32(part, stream);
  });
}

void ssm_scan_recurrent(const SsmShape& shape, const SsmInputs& inputs,
                        std::span<const ScanSequence> sequences, AnyMatrixView y) {
  const bool is_bf16 = y.dtype == DType::kBF16;
  ScanPlan plan = plan_of(shape, inputs, y, 4 * y.elem_bytes());
  set_slices(plan, kRecurrentRows);
  const cudaStream_t stream = stream_of(y.device);
  run(plan, in_order(sequences), [&](const ScanPlan& part) {
    is_bf16 ? launch_recurrence_bf16(part, stream) : launch_recurrence_f32(part, stream);
  });
}

}  // namespace vernier::kernels::cuda
