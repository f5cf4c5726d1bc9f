// Gradients of linear layers: checks and dispatch.
#include "kernels/linear_backward.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace vernier::kernels {
namespace {

void check(ConstAnyMatrixView g_y, const formats::PackedView& weight, ConstAnyMatrixView g_x) {
  VERNIER_CHECK(weight.format != nullptr && weight.n > 0);
  VERNIER_CHECK(g_y.cols == weight.n && has_shape(g_x, g_y.rows, weight.k));
  VERNIER_CHECK(is_activation(g_y) && is_activation(g_x));
  VERNIER_CHECK(same_place(g_x.device, {g_y.device, weight.device()}));
}

}  // namespace

void linear_input_gradient(ConstAnyMatrixView g_y, const formats::PackedView& weight,
                           AnyMatrixView g_x) {
  check(g_y, weight, g_x);
  if (g_x.rows == 0) return;
  if (g_x.device != nullptr) return cuda::linear_input_gradient(g_y, weight, g_x);
  cpu::linear_input_gradient(g_y.host(), weight, g_x.host());
}

void linear_input_gradient(ConstAnyMatrixView g_y, ConstAnyMatrixView weight, AnyMatrixView g_x) {
  VERNIER_CHECK(weight.rows > 0);
  VERNIER_CHECK(g_y.cols == weight.rows && has_shape(g_x, g_y.rows, weight.cols));
  VERNIER_CHECK(is_activation(g_y) && has_dtype(weight, DType::kF32));
  VERNIER_CHECK(has_dtype(g_x, DType::kF32));
  VERNIER_CHECK(same_place(g_x.device, {g_y.device, weight.device}));
  if (g_x.rows == 0) return;
  if (g_x.device != nullptr) return cuda::linear_input_gradient(g_y, weight, g_x);
  cpu::linear_input_gradient(g_y.host(), weight.host(), g_x.host());
}

void grouped_input_gradient(ConstAnyMatrixView g_y, std::span<const int64_t> begin,
                            std::span<const GroupWeight> groups, AnyMatrixView g_x) {
  VERNIER_CHECK(begin.size() == groups.size() + 1);
  VERNIER_CHECK(begin.front() == 0 && begin.back() == g_y.rows && g_y.rows == g_x.rows);
  for (size_t group = 0; group < groups.size(); ++group) {
    const int64_t n_rows = begin[group + 1] - begin[group];
    VERNIER_CHECK(n_rows >= 0);
    check(g_y.row_range(begin[group], n_rows), groups[group].weight,
          g_x.row_range(begin[group], n_rows));
  }
  if (g_x.rows == 0) return;
  if (g_x.device != nullptr) return cuda::grouped_input_gradient(g_y, begin, groups, g_x);
  for (size_t group = 0; group < groups.size(); ++group) {
    const int64_t n_rows = begin[group + 1] - begin[group];
    if (n_rows == 0) continue;
    cpu::linear_input_gradient(g_y.row_range(begin[group], n_rows).host(), groups[group].weight,
                               g_x.row_range(begin[group], n_rows).host());
  }
}

void linear_weight_gradient(ConstAnyMatrixView g_y, ConstAnyMatrixView x, AnyMatrixView g_weight) {
  if (g_weight.rows == 0 || g_weight.cols == 0) return;
  VERNIER_CHECK(g_y.rows == x.rows && has_shape(g_weight, g_y.cols, x.cols));
  VERNIER_CHECK(is_activation(g_y) && is_activation(x) && has_dtype(g_weight, DType::kF32));
  VERNIER_CHECK(same_place(g_weight.device, {g_y.device, x.device}));
  if (g_y.rows == 0) return;
  if (g_weight.device != nullptr) return cuda::linear_weight_gradient(g_y, x, g_weight);
  cpu::linear_weight_gradient(g_y.host(), x.host(), g_weight.host());
}

}  // namespace vernier::kernels
