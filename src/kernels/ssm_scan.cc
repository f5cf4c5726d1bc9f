// The Mamba-2 scan: checks and dispatch.
#include "kernels/ssm_scan.h"

#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "kernels/scan_checks.h"

namespace vernier::kernels {
namespace {

void check(const SsmShape& shape, const SsmInputs& in, std::span<const ScanSequence> sequences,
           ConstAnyMatrixView y) {
  check_scan_inputs(shape, in, y);
  const int64_t n_tokens = in.x.rows;
  const int64_t n_channels = shape.n_heads * shape.head_dim;
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
    const HostScanInputs own = host_rows(in, first_row, n_rows);
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
