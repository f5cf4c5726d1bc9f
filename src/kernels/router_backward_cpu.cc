// Gradients of the MoE router on the host: tokens in parallel; a token's rows are one thread's.
#include <algorithm>

#include "kernels/cpu.h"
#include "kernels/sigmoid.h"
#include "kernels/vec.h"

namespace vernier::kernels::cpu {

void combine_experts_backward(ConstMatrixView g_r, int64_t first, const ExpertGroups& groups,
                              const Routing& routing, ConstMatrixView outputs, MatrixView g_outputs,
                              std::span<float> g_weights) {
  const std::span<const int32_t> places = groups.places.view().host();
  const std::span<const float> weights = routing.weights.view().host();
  const int64_t n = outputs.cols;
#pragma omp parallel for schedule(static) if (outputs.rows * n >= kMinParallelElems)
  for (int64_t token = 0; token < g_r.rows; ++token) {
    const float* g = g_r.row(token).data();
    for (int64_t pair = token * routing.top_k; pair < (token + 1) * routing.top_k; ++pair) {
      const int64_t row = places[pair] - first;
      if (row < 0 || row >= outputs.rows) continue;
      vec::dots({g, n, 1}, {outputs.row(row).data(), n, 1}, n, &g_weights[pair], 1);
      float* to = g_outputs.row(row).data();
      for (int64_t c = 0; c < n; ++c) to[c] = weights[pair] * g[c];
    }
  }
}

void gather_rows_backward(ConstMatrixView g_y, int64_t first, const ExpertGroups& groups,
                          int64_t top_k, MatrixView g_x) {
  const std::span<const int32_t> places = groups.places.view().host();
#pragma omp parallel for schedule(static) if (g_y.rows * g_y.cols >= kMinParallelElems)
  for (int64_t token = 0; token < g_x.rows; ++token) {
    float* to = g_x.row(token).data();
    for (int64_t pair = token * top_k; pair < (token + 1) * top_k; ++pair) {
      const int64_t row = places[pair] - first;
      if (row < 0 || row >= g_y.rows) continue;
      const float* from = g_y.row(row).data();
      for (int64_t c = 0; c < g_x.cols; ++c) to[c] += from[c];
    }
  }
}

void route_backward(const RouterShape& shape, ConstMatrixView logits, const Routing& routing,
                    std::span<const float> g_weights, MatrixView g_logits) {
  const std::span<const int32_t> experts = routing.experts.view().host();
#pragma omp parallel for schedule(static) if (logits.rows * logits.cols >= kMinParallelElems)
  for (int64_t t = 0; t < logits.rows; ++t) {
    const float* from = logits.row(t).data();
    float* to = g_logits.row(t).data();
    std::fill_n(to, logits.cols, 0.0f);
    const int64_t begin = t * shape.top_k;
    const int64_t end = begin + shape.top_k;
    float sum = 1e-20f;
    float product = 0;
    for (int64_t pair = begin; pair < end; ++pair) {
      const float s = sigmoid_of(from[experts[pair]]).value;
      sum += s;
      product += g_weights[pair] * s;
    }
    for (int64_t pair = begin; pair < end; ++pair) {
      const auto [s, complement] = sigmoid_of(from[experts[pair]]);
      const float g_s = shape.normalize ? (g_weights[pair] - product / sum) / sum : g_weights[pair];
      to[experts[pair]] = shape.scale * g_s * s * complement;
    }
  }
}

}  // namespace vernier::kernels::cpu
