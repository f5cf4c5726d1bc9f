// Pointwise maps over activations: checks and dispatch.
#include "kernels/elementwise.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace vernier::kernels {

void squared_relu(AnyMatrixView x) {
  VERNIER_CHECK(is_activation(x));
  if (x.device != nullptr) return cuda::squared_relu(x);
  cpu::squared_relu(x.host());
}

void softplus_dt(ConstAnyMatrixView raw, VectorView<const float> bias, float low, float high,
                 AnyMatrixView dt) {
  VERNIER_CHECK(same_shape(raw, dt) && is_activation(raw) && has_dtype(dt, DType::kF32));
  VERNIER_CHECK(bias.size == dt.cols);
  VERNIER_CHECK(low <= high);
  VERNIER_CHECK(same_place(dt.device, {raw.device, bias.device}));
  if (dt.device != nullptr) return cuda::softplus_dt(raw, bias, low, high, dt);
  cpu::softplus_dt(raw.host(), bias.host(), low, high, dt.host());
}

void gather_rows(ConstAnyMatrixView x, VectorView<const int32_t> rows, AnyMatrixView y) {
  VERNIER_CHECK(x.cols == y.cols && is_activation(x) && x.dtype == y.dtype);
  VERNIER_CHECK(rows.size == y.rows);
  VERNIER_CHECK(same_place(y.device, {x.device, rows.device}));
  if (y.device != nullptr) return cuda::gather_rows(x, rows, y);
  VERNIER_CHECK(all_below(rows.host(), x.rows));
  cpu::gather_rows(x.host(), rows.host(), y.host());
}

void add(ConstAnyMatrixView x, AnyMatrixView y) {
  VERNIER_CHECK(same_shape(x, y) && is_activation(x) && has_dtype(y, DType::kF32));
  VERNIER_CHECK(same_place(y.device, {x.device}));
  if (y.device != nullptr) return cuda::add(x, y);
  cpu::add(x.host(), y.host());
}

void accumulate_amax(ConstAnyMatrixView x, VectorView<float> amax) {
  VERNIER_CHECK(is_activation(x) && amax.size == 1);
  VERNIER_CHECK(same_place(x.device, {amax.device}));
  if (x.device != nullptr) return cuda::accumulate_amax(x, amax);
  amax.data[0] = cpu::larger_amax(amax.data[0], x.host());
}

void round_input(const formats::Format& format, float scale, MatrixView x) {
  VERNIER_CHECK(format.round_input != nullptr && x.cols % format.k_multiple == 0);
  cpu::round_input(format, scale, x);
}

}  // namespace vernier::kernels
