// The Mamba-2 scan: checks and dispatch.
#include "kernels/ssm_scan.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace vernier::kernels {
namespace {

void check(const SsmShape& shape, const SsmInputs& in, std::span<const ScanSequence> sequences,
           ConstAnyMatrixView y) {
  VERNIER_CHECK(shape.n_groups > 0 && shape.n_heads % shape.n_groups == 0);
  const int64_t n_tokens = in.x.rows;
  const int64_t n_channels = shape.n_heads * shape.head_dim;
  VERNIER_CHECK(has_shape(in.x, n_tokens, n_channels) && same_shape(y, in.x));
  VERNIER_CHECK(has_shape(in.b, n_tokens, shape.n_groups * shape.state_dim));
  VERNIER_CHECK(same_shape(in.c, in.b));
  VERNIER_CHECK(has_shape(in.dt, n_tokens, shape.n_heads) && has_dtype(in.dt, DType::kF32));
  VERNIER_CHECK(in.a.size == shape.n_heads && in.d.size == shape.n_heads);
  VERNIER_CHECK(is_activation(y) && in.x.dtype == y.dtype && in.b.dtype == y.dtype &&
                in.c.dtype == y.dtype);
  VERNIER_CHECK(same_place(
      y.device, {in.x.device, in.b.device, in.c.device, in.dt.device, in.a.device, in.d.device}));
  VERNIER_CHECK(n_tokens == 0 || in.x.data != y.data);
  VERNIER_CHECK(all_within(sequences, n_tokens));
  for (const ScanSequence& sequence : sequences) {
    VERNIER_CHECK(has_shape(sequence.state, n_channels, shape.state_dim));
    VERNIER_CHECK(has_dtype(sequence.state, DType::kF32) && sequence.state.device == y.device);
  }
}

using HostScan = void (*)(const SsmShape&, const HostScanInputs&, MatrixView, MatrixView);

void run_on_host(HostScan scan, const SsmShape& shape, const SsmInputs& in,
                 std::span<const ScanSequence> sequences, AnyMatrixView y) {
  for (const auto& [first_row, n_rows, state] : sequences) {
    const HostScanInputs own{.x = in.x.row_range(first_row, n_rows).host(),
                             .b = in.b.row_range(first_row, n_rows).host(),
                             .c = in.c.row_range(first_row, n_rows).host(),
                             .dt = in.dt.row_range(first_row, n_rows).host(),
                             .a = in.a.host(),
                             .d = in.d.host()};
    scan(shape, own, state.host(), y.row_range(first_row, n_rows).host());
  }
}

}  // namespace

void ssm_scan_chunked(const SsmShape& shape, const SsmInputs& inputs,
                      std::span<const ScanSequence> sequences, AnyMatrixView y) {
  check(shape, inputs, sequences, y);
  VERNIER_CHECK(shape.chunk > 0);
  if (y.device != nullptr) return cuda::ssm_scan_chunked(shape, inputs, sequences, y);
  run_on_host(cpu::ssm_scan_chunked, shape, inputs, sequences, y);
}

void ssm_scan_recurrent(const SsmShape& shape, const SsmInputs& inputs,
                        std::span<const ScanSequence> sequences, AnyMatrixView y) {
  check(shape, inputs, sequences, y);
  if (y.device != nullptr) return cuda::ssm_scan_recurrent(shape, inputs, sequences, y);
  run_on_host(cpu::ssm_scan_recurrent, shape, inputs, sequences, y);
}

}  // namespace vernier::kernels
