// Gradients of root-mean-square norms on the host: two sums over a unit, then one pass that writes,
// while the row is in the first-level cache. Tiles of rows in parallel.
#include <cmath>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/row_tiles.h"
#include "kernels/sigmoid.h"
#include "kernels/vec.h"

namespace vernier::kernels::cpu {
namespace {

// g_q = root (w g_y - q shrink).
struct Factors {
  float root;    // r = 1 / rms(q)
  float shrink;  // r^2 mean(w g_y q)
};

Factors factors_of(const float* q, const float* weighted, int64_t n, float eps) {
  float product = 0;
  vec::dots({weighted, n, 1}, {q, n, 1}, n, &product, 1);
  const float mean = vec::sum_squares(q, n) / static_cast<float>(n);
  const float root = 1.0f / std::sqrt(mean + eps);
  return {root, root * root * product / static_cast<float>(n)};
}

// One token's q = x silu(gate), its derivatives and w g_y.
struct GatedRow {
  std::vector<float> q, by_x, by_gate, weighted;

  void fill(const float* x, const float* gate, const float* weight, const float* g_y, int64_t n) {
    for (std::vector<float>* each : {&q, &by_x, &by_gate, &weighted}) {
      each->resize(static_cast<size_t>(n));
    }
    for (int64_t c = 0; c < n; ++c) {
      const Silu silu = silu_of(gate[c]);
      q[c] = x[c] * silu.value;
      by_x[c] = silu.value;
      by_gate[c] = x[c] * silu.slope;
      weighted[c] = weight[c] * g_y[c];
    }
  }
};

}  // namespace

void rms_norm_backward(ConstMatrixView x, std::span<const float> weight, float eps,
                       ConstMatrixView g_y, MatrixView g_x, std::span<float> g_weight) {
  sum_over_rows(x.rows, x.cols, g_weight, [&](int64_t t, float* weight_sums) {
    thread_local std::vector<float> weighted;
    weighted.resize(static_cast<size_t>(x.cols));
    const float* q = x.row(t).data();
    const float* g = g_y.row(t).data();
    float* to = g_x.row(t).data();
    for (int64_t c = 0; c < x.cols; ++c) weighted[c] = weight[c] * g[c];
    const auto [root, shrink] = factors_of(q, weighted.data(), x.cols, eps);
    for (int64_t c = 0; c < x.cols; ++c) to[c] += root * (weighted[c] - q[c] * shrink);
    if (weight_sums == nullptr) return;
    for (int64_t c = 0; c < x.cols; ++c) weight_sums[c] += g[c] * (q[c] * root);
  });
}

void gated_group_norm_backward(ConstMatrixView x, ConstMatrixView gate,
                               std::span<const float> weight, int64_t n_groups, float eps,
                               ConstMatrixView g_y, MatrixView g_x, MatrixView g_gate,
                               std::span<float> g_weight) {
  const int64_t width = x.cols / n_groups;
  sum_over_rows(x.rows, x.cols, g_weight, [&](int64_t t, float* weight_sums) {
    thread_local GatedRow row;
    const float* g = g_y.row(t).data();
    float* to_x = g_x.row(t).data();
    float* to_gate = g_gate.row(t).data();
    row.fill(x.row(t).data(), gate.row(t).data(), weight.data(), g, x.cols);
    for (int64_t first = 0; first < x.cols; first += width) {
      const auto [root, shrink] =
          factors_of(row.q.data() + first, row.weighted.data() + first, width, eps);
      for (int64_t c = first; c < first + width; ++c) {
        if (weight_sums != nullptr) weight_sums[c] += g[c] * (row.q[c] * root);
        const float g_q = root * (row.weighted[c] - row.q[c] * shrink);
        to_x[c] = g_q * row.by_x[c];
        to_gate[c] = g_q * row.by_gate[c];
      }
    }
  });
}

}  // namespace vernier::kernels::cpu
