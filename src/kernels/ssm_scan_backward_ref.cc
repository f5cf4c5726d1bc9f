// The gradients of the Mamba-2 recurrence, in double.
#include <algorithm>
#include <cmath>

#include "kernels/reference.h"

namespace vernier::kernels::ref {
namespace {

// [rows, cols] of sums.
struct Sums {
  int64_t cols;
  std::vector<double> values;

  Sums(int64_t rows, int64_t cols) : cols(cols), values(rows * cols) {}
  double* row(int64_t row) { return values.data() + row * cols; }
  void store(MatrixView to) {
    for (int64_t t = 0; t < to.rows; ++t) std::copy_n(row(t), cols, to.row(t).data());
  }
};

}  // namespace

void ssm_scan_backward(const SsmShape& shape, const HostScanInputs& in, ConstMatrixView g_y,
                       const HostScanGradients& gradients) {
  const int64_t n_tokens = in.x.rows;
  const int64_t n_state = shape.state_dim;
  Sums g_b(n_tokens, in.b.cols), g_c(n_tokens, in.c.cols), g_dt(n_tokens, shape.n_heads);
  Sums g_a(1, shape.n_heads), g_d(1, shape.n_heads);
  for (int64_t row = 0; row < in.x.cols; ++row) {  // one row of one head's state
    const int64_t head = row / shape.head_dim;
    const int64_t first_state = head / (shape.n_heads / shape.n_groups) * n_state;
    const double a = in.a[head];
    std::vector<double> states((n_tokens + 1) * n_state);  // before each token and after the last
    for (int64_t t = 0; t < n_tokens; ++t) {
      const double dt = in.dt.row(t)[head];
      const double decay = std::exp(dt * a);
      const double* before = states.data() + t * n_state;
      for (int64_t n = 0; n < n_state; ++n) {
        states[(t + 1) * n_state + n] =
            decay * before[n] + dt * in.x.row(t)[row] * in.b.row(t)[first_state + n];
      }
    }
    std::vector<double> g(n_state);
    for (int64_t t = n_tokens - 1; t >= 0; --t) {
      const double dt = in.dt.row(t)[head];
      const double x = in.x.row(t)[row];
      const double gy = g_y.row(t)[row];
      const double decay = std::exp(dt * a);
      double gb = 0;  // G B
      double e = 0;
      for (int64_t n = 0; n < n_state; ++n) {
        const double b = in.b.row(t)[first_state + n];
        g[n] += gy * in.c.row(t)[first_state + n];
        g_c.row(t)[first_state + n] += states[(t + 1) * n_state + n] * gy;
        g_b.row(t)[first_state + n] += dt * g[n] * x;
        gb += g[n] * b;
        g[n] *= decay;
        e += g[n] * states[t * n_state + n];
      }
      gradients.x.row(t)[row] = static_cast<float>(dt * gb + in.d[head] * gy);
      g_dt.row(t)[head] += x * gb + a * e;
      g_a.row(0)[head] += dt * e;
      g_d.row(0)[head] += gy * x;
    }
  }
  g_b.store(gradients.b);
  g_c.store(gradients.c);
  g_dt.store(gradients.dt);
  const auto add = [](const Sums& sums, std::span<float> to) {
    for (size_t head = 0; head < to.size(); ++head) {
      to[head] = static_cast<float>(to[head] + sums.values[head]);
    }
  };
  add(g_a, gradients.a);
  add(g_d, gradients.d);
}

}  // namespace vernier::kernels::ref
