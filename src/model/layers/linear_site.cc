#include "model/layers/linear_site.h"

#include <algorithm>
#include <utility>

#include "kernels/linear.h"

namespace vernier::model {

namespace {

Matrix copy_of(ConstMatrixView x) {
  Matrix copy(x.rows, x.cols);
  for (int64_t row = 0; row < x.rows; ++row) {
    std::ranges::copy(x.row(row), copy.view().row(row).begin());
  }
  return copy;
}

}  // namespace

LinearSite::LinearSite(const Module& module, LinearWeight weight)
    : module_(&module), weight_(std::move(weight)) {
  VERNIER_CHECK(weight_.packed.n == module.n && weight_.packed.k == module.k);
}

void LinearSite::forward(ConstMatrixView x, SiteHook* hook, MatrixView y) const {
  if (hook != nullptr) hook->on_input(*module_, x);
  if (weight_.input_format == nullptr) {
    kernels::linear(x, weight_.packed, y);
    return;
  }
  // x may have other readers, each with a rule of its own.
  Matrix rounded = copy_of(x);
  round_rows(*weight_.input_format, weight_.input_scale, rounded);
  kernels::linear(rounded, weight_.packed, y);
}

void round_rows(const formats::Format& format, float scale, MatrixView x) {
  constexpr int64_t kRowsAtOnce = 16;
  const int64_t n_blocks = (x.rows + kRowsAtOnce - 1) / kRowsAtOnce;
#pragma omp parallel for schedule(static) if (n_blocks > 1)
  for (int64_t block = 0; block < n_blocks; ++block) {
    const int64_t first = block * kRowsAtOnce;
    format.round_input(x.row_range(first, std::min(kRowsAtOnce, x.rows - first)), scale);
  }
}

}  // namespace vernier::model
