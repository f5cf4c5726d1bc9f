// What both directions of the scan check of their arguments.
#pragma once

#include "kernels/checks.h"
#include "kernels/ssm_scan.h"

namespace vernier::kernels {

// `y`: a matrix of the output's shape, type and place.
inline void check_scan_inputs(const SsmShape& shape, const SsmInputs& in, ConstAnyMatrixView y) {
  VERNIER_CHECK(shape.n_groups > 0 && shape.n_heads % shape.n_groups == 0);
  const int64_t n_tokens = in.x.rows;
  VERNIER_CHECK(has_shape(in.x, n_tokens, shape.n_heads * shape.head_dim));
  VERNIER_CHECK(same_shape(y, in.x));
  VERNIER_CHECK(has_shape(in.b, n_tokens, shape.n_groups * shape.state_dim));
  VERNIER_CHECK(same_shape(in.c, in.b));
  VERNIER_CHECK(has_shape(in.dt, n_tokens, shape.n_heads) && has_dtype(in.dt, DType::kF32));
  VERNIER_CHECK(in.a.size == shape.n_heads && in.d.size == shape.n_heads);
  VERNIER_CHECK(is_activation(y) && in.x.dtype == y.dtype && in.b.dtype == y.dtype &&
                in.c.dtype == y.dtype);
  VERNIER_CHECK(same_place(
      y.device, {in.x.device, in.b.device, in.c.device, in.dt.device, in.a.device, in.d.device}));
}

}  // namespace vernier::kernels
