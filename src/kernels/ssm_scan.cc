// The Mamba-2 scan: checks and dispatch.
#include "kernels/ssm_scan.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"

namespace vernier::kernels {
namespace {

void check(const SsmShape& shape, const SsmInputs& in, ConstMatrixView state, ConstMatrixView y) {
  VERNIER_CHECK(shape.n_groups > 0 && shape.n_heads % shape.n_groups == 0);
  const int64_t n_tokens = in.x.rows;
  const int64_t n_channels = shape.n_heads * shape.head_dim;
  VERNIER_CHECK(has_shape(in.x, n_tokens, n_channels) && same_shape(y, in.x));
  VERNIER_CHECK(has_shape(in.b, n_tokens, shape.n_groups * shape.state_dim));
  VERNIER_CHECK(same_shape(in.c, in.b));
  VERNIER_CHECK(has_shape(in.dt, n_tokens, shape.n_heads));
  VERNIER_CHECK(has_size(in.a, shape.n_heads) && has_size(in.d, shape.n_heads));
  VERNIER_CHECK(has_shape(state, n_channels, shape.state_dim));
  VERNIER_CHECK(n_tokens == 0 || in.x.data != y.data);
}

}  // namespace

void ssm_scan_chunked(const SsmShape& shape, const SsmInputs& inputs, MatrixView state,
                      MatrixView y) {
  check(shape, inputs, state, y);
  VERNIER_CHECK(shape.chunk > 0);
  cpu::ssm_scan_chunked(shape, inputs, state, y);
}

void ssm_scan_recurrent(const SsmShape& shape, const SsmInputs& inputs, MatrixView state,
                        MatrixView y) {
  check(shape, inputs, state, y);
  cpu::ssm_scan_recurrent(shape, inputs, state, y);
}

}  // namespace vernier::kernels
