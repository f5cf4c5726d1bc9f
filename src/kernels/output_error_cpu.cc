// A pass over the rows for each of the gradients; sums run in stripes of a fixed width, which
// compilers vectorize without changing the order.
#include "kernels/cpu.h"

namespace vernier::kernels::cpu {
namespace {

constexpr int64_t kStripe = 16;

// Sum of term(k) over k.
template <class Term>
float striped_sum(int64_t n, Term term) {
  float lanes[kStripe] = {};
  int64_t k = 0;
  for (; k + kStripe <= n; k += kStripe) {
    for (int64_t lane = 0; lane < kStripe; ++lane) lanes[lane] += term(k + lane);
  }
  for (int64_t lane = 0; k + lane < n; ++lane) lanes[lane] += term(k + lane);
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

}  // namespace

void output_error(ConstMatrixView y, ConstMatrixView moved, ConstMatrixView g_squares,
                  ConstMatrixView g_dots, std::span<float> squares, std::span<float> dots) {
#pragma omp parallel for schedule(static) if (y.rows * y.cols > kMinParallelElems)
  for (int64_t t = 0; t < y.rows; ++t) {
    const float* exact = y.row(t).data();
    const float* other = moved.row(t).data();
    if (g_squares.data != nullptr) {
      const float* g = g_squares.row(t).data();
      squares[static_cast<size_t>(t)] += striped_sum(y.cols, [&](int64_t k) {
        const float weighted = g[k] * (other[k] - exact[k]);
        return weighted * weighted;
      });
    }
    if (g_dots.data != nullptr) {
      const float* g = g_dots.row(t).data();
      dots[static_cast<size_t>(t)] +=
          striped_sum(y.cols, [&](int64_t k) { return g[k] * (other[k] - exact[k]); });
    }
  }
}

}  // namespace vernier::kernels::cpu
