// The Mamba-2 recurrence, in double.
#include <cmath>

#include "kernels/reference.h"

namespace vernier::kernels::ref {

void ssm_scan_recurrent(const SsmShape& shape, const HostScanInputs& inputs, MatrixView state,
                        MatrixView y) {
  for (int64_t row = 0; row < state.rows; ++row) {  // one row of one head's state
    const int64_t head = row / shape.head_dim;
    const int64_t group = head / (shape.n_heads / shape.n_groups);
    const auto first_state = group * shape.state_dim;
    std::vector<double> s(state.row(row).begin(), state.row(row).end());
    for (int64_t t = 0; t < y.rows; ++t) {
      const double dt = inputs.dt.row(t)[head];
      const double x = inputs.x.row(t)[row];
      const double decay = std::exp(dt * inputs.a[head]);
      double sum = inputs.d[head] * x;
      for (int64_t n = 0; n < shape.state_dim; ++n) {
        s[n] = decay * s[n] + dt * x * inputs.b.row(t)[first_state + n];
        sum += s[n] * inputs.c.row(t)[first_state + n];
      }
      y.row(t)[row] = static_cast<float>(sum);
    }
    for (int64_t n = 0; n < shape.state_dim; ++n) state.row(row)[n] = static_cast<float>(s[n]);
  }
}

}  // namespace vernier::kernels::ref
