// The gradients of the Mamba-2 scan: checks and dispatch.
#include "kernels/ssm_scan_backward.h"

#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "kernels/scan_checks.h"
#include "kernels/ssm_scan_backward_scratch.h"

namespace vernier::kernels {
namespace {

void check_gradients(const SsmInputs& in, const SsmGradients& out) {
  Device* const device = in.x.device;
  VERNIER_CHECK(same_shape(out.x, in.x) && same_shape(out.b, in.b) && same_shape(out.c, in.c));
  VERNIER_CHECK(same_shape(out.dt, in.dt) && has_dtype(out.dt, DType::kF32));
  VERNIER_CHECK(out.x.dtype == in.x.dtype && out.b.dtype == in.x.dtype &&
                out.c.dtype == in.x.dtype);
  VERNIER_CHECK(same_place(device, {out.x.device, out.b.device, out.c.device, out.dt.device}));
  for (const VectorView<float>& sums : {out.a, out.d}) {
    VERNIER_CHECK(sums.empty() || (sums.size == in.a.size && sums.device == device));
  }
}

void run_on_host(const SsmShape& shape, const SsmInputs& in,
                 std::span<const SequenceSpan> sequences, ConstAnyMatrixView g_y,
                 const SsmGradients& out) {
  for (const auto& [first_row, n_rows] : sequences) {
    const HostScanInputs own = host_rows(in, first_row, n_rows);
    const HostScanGradients gradients{.x = out.x.row_range(first_row, n_rows).host(),
                                      .b = out.b.row_range(first_row, n_rows).host(),
                                      .c = out.c.row_range(first_row, n_rows).host(),
                                      .dt = out.dt.row_range(first_row, n_rows).host(),
                                      .a = out.a.host(),
                                      .d = out.d.host()};
    cpu::ssm_scan_backward(shape, own, g_y.row_range(first_row, n_rows).host(), gradients);
  }
}

}  // namespace

void ssm_scan_backward(const SsmShape& shape, const SsmInputs& inputs,
                       std::span<const SequenceSpan> sequences, ConstAnyMatrixView g_y,
                       const SsmGradients& gradients) {
  check_scan_inputs(shape, inputs, g_y);
  VERNIER_CHECK(shape.chunk > 0);
  check_gradients(inputs, gradients);
  VERNIER_CHECK(all_within(sequences, inputs.x.rows));
  if (g_y.device != nullptr) {
    return cuda::ssm_scan_backward(shape, inputs, sequences, g_y, gradients);
  }
  run_on_host(shape, inputs, sequences, g_y, gradients);
}

int64_t ssm_scan_backward_scratch_bytes(const SsmShape& shape, int64_t n_tokens) {
  const int64_t n_groups = groups_at_once(shape, n_tokens);
  // Of every chunk, of which there are at most as many as tokens: a row of a table, and the parts
  // of g_a and g_d.
  const int64_t chunk_bytes = 32 + n_groups * (shape.n_heads / shape.n_groups) * 8;
  return n_groups * kept_states_bytes(shape, n_tokens) + n_tokens * chunk_bytes;
}

}  // namespace vernier::kernels
