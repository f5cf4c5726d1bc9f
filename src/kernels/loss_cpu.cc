// Gradients of losses at the logits on the host: rows in parallel. A row becomes its softmax in
// place, by vectors; what it is made of then goes over it once more.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/philox.h"
#include "kernels/vec.h"

namespace vernier::kernels::cpu {
namespace {

// p = softmax(logits), which may be the same.
void softmax(const float* logits, int64_t n, float* p) {
  const float max = vec::max(logits, n);
  const double sum = vec::sum_exp(logits, max, n);
  vec::exp_minus(logits, max, p, n);
  const auto factor = static_cast<float>(1 / sum);
  for (int64_t i = 0; i < n; ++i) p[i] *= factor;
}

// signs[i] = +-1.
void fill_signs(uint64_t seed, uint64_t token, std::vector<float>& signs) {
  const auto n = static_cast<int64_t>(signs.size());
  for (int64_t first = 0; first < n; first += kSignsPerBlock) {
    const auto block = static_cast<uint32_t>(first / kSignsPerBlock);
    const PhiloxWords bits = probe_signs(seed, token, block);
    const int64_t n_here = std::min<int64_t>(kSignsPerBlock, n - first);
    for (int64_t i = 0; i < n_here; ++i) {
      signs[first + i] = bits.words[i / 32] >> (i % 32) & 1 ? -1.0f : 1.0f;
    }
  }
}

}  // namespace

void cross_entropy_gradient(ConstMatrixView logits, std::span<const int32_t> targets, float scale,
                            MatrixView g_logits) {
  const int64_t n = logits.cols;
#pragma omp parallel for schedule(static) if (logits.rows * n >= kMinParallelElems)
  for (int64_t t = 0; t < logits.rows; ++t) {
    float* g = g_logits.row(t).data();
    if (targets[t] == kNoTarget) {
      std::fill_n(g, n, 0.0f);
      continue;
    }
    softmax(logits.row(t).data(), n, g);
    g[targets[t]] -= 1.0f;
    for (int64_t i = 0; i < n; ++i) g[i] *= scale;
  }
}

void fisher_probe(ConstMatrixView logits, uint64_t seed, uint64_t first_token, float scale,
                  MatrixView g_logits) {
  const int64_t n = logits.cols;
#pragma omp parallel for schedule(static) if (logits.rows * n >= kMinParallelElems)
  for (int64_t t = 0; t < logits.rows; ++t) {
    thread_local std::vector<float> signs;
    signs.resize(static_cast<size_t>(n));
    fill_signs(seed, first_token + static_cast<uint64_t>(t), signs);
    float* g = g_logits.row(t).data();
    softmax(logits.row(t).data(), n, g);
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += std::sqrt(g[i]) * signs[i];
    const auto along = static_cast<float>(sum);
    for (int64_t i = 0; i < n; ++i) g[i] = scale * (std::sqrt(g[i]) * signs[i] - g[i] * along);
  }
}

void kl_gradient(ConstMatrixView teacher_logits, ConstMatrixView logits, float scale,
                 MatrixView g_logits) {
  const int64_t n = logits.cols;
#pragma omp parallel for schedule(static) if (logits.rows * n >= kMinParallelElems)
  for (int64_t t = 0; t < logits.rows; ++t) {
    thread_local std::vector<float> teacher;
    teacher.resize(static_cast<size_t>(n));
    float* g = g_logits.row(t).data();
    softmax(teacher_logits.row(t).data(), n, teacher.data());
    softmax(logits.row(t).data(), n, g);
    for (int64_t i = 0; i < n; ++i) g[i] = scale * (g[i] - teacher[i]);
  }
}

}  // namespace vernier::kernels::cpu
