// What the tests of the scan and of its gradients share.
#pragma once

#include <numeric>

#include "kernels/host_scan.h"
#include "kernels/test_support.h"

namespace vernier::kernels {

// A random scan of sequences that follow one another. x, b and c are columns of one matrix, as they
// are of the convolution's output; `skew` columns before them belong to nobody.
struct RandomScan {
  SsmShape shape;
  std::vector<int64_t> lengths;
  int64_t skew;
  Matrix xbc, dt;
  std::vector<float> a, d;

  RandomScan(const SsmShape& shape, std::vector<int64_t> lengths, int64_t skew)
      : shape(shape),
        lengths(std::move(lengths)),
        skew(skew),
        xbc(random_matrix(n_tokens(), n_columns(), 1)),
        dt(random_matrix(n_tokens(), shape.n_heads, 4)),
        a(random_vector(shape.n_heads, 6)),
        d(random_vector(shape.n_heads, 7)) {
    for (float& value : dt.values()) value = std::min(1.0f, std::abs(value));
    for (float& value : a) value = -std::exp(value);
  }

  int64_t n_tokens() const { return std::accumulate(lengths.begin(), lengths.end(), int64_t{0}); }
  int64_t n_channels() const { return shape.n_heads * shape.head_dim; }
  int64_t n_bc() const { return shape.n_groups * shape.state_dim; }
  int64_t n_columns() const { return skew + n_channels() + 2 * n_bc(); }

  template <class View>
  View x(const View& columns) const {
    return columns.col_range(skew, n_channels());
  }
  template <class View>
  View b(const View& columns) const {
    return columns.col_range(skew + n_channels(), n_bc());
  }
  template <class View>
  View c(const View& columns) const {
    return columns.col_range(skew + n_channels() + n_bc(), n_bc());
  }
  // Those of one sequence.
  HostScanInputs inputs(int64_t first, int64_t n) const {
    const ConstMatrixView rows = xbc.view().row_range(first, n);
    return {.x = x(rows),
            .b = b(rows),
            .c = c(rows),
            .dt = dt.view().row_range(first, n),
            .a = a,
            .d = d};
  }
};

}  // namespace vernier::kernels
