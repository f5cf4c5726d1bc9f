#include "kernels/ssm_scan.h"

#include "kernels/linear.h"
#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

// A random scan: its inputs, and what a call leaves.
struct Scan {
  SsmShape shape;
  Matrix x, b, c, dt, initial;
  std::vector<float> a, d;

  Scan(SsmShape shape, int64_t n_tokens, float largest_dt = 1.0f)
      : shape(shape),
        x(random_matrix(n_tokens, shape.n_heads * shape.head_dim, 1)),
        b(random_matrix(n_tokens, shape.n_groups * shape.state_dim, 2)),
        c(random_matrix(n_tokens, shape.n_groups * shape.state_dim, 3)),
        dt(random_matrix(n_tokens, shape.n_heads, 4)),
        initial(random_matrix(shape.n_heads * shape.head_dim, shape.state_dim, 5)),
        a(random_vector(shape.n_heads, 6)),
        d(random_vector(shape.n_heads, 7)) {
    for (float& value : dt.values()) value = std::min(largest_dt, std::abs(value));
    for (float& value : a) value = -std::exp(value);
  }

  SsmInputs inputs(int64_t first, int64_t n) const {
    return {.x = x.view().row_range(first, n),
            .b = b.view().row_range(first, n),
            .c = c.view().row_range(first, n),
            .dt = dt.view().row_range(first, n),
            .a = a,
            .d = d};
  }
  int64_t n_tokens() const { return x.rows(); }
};

using ScanFunction = void (*)(const SsmShape&, const SsmInputs&, MatrixView, MatrixView);

struct Result {
  Matrix y;
  Matrix state;
};

// Runs the scan in parts of `part` tokens that carry the state.
Result run(const Scan& scan, ScanFunction function, int64_t part) {
  Result result{Matrix(scan.n_tokens(), scan.x.cols()), scan.initial};
  for (int64_t first = 0; first < scan.n_tokens(); first += part) {
    const int64_t n = std::min(part, scan.n_tokens() - first);
    function(scan.shape, scan.inputs(first, n), result.state, result.y.view().row_range(first, n));
  }
  return result;
}

Result run(const Scan& scan, ScanFunction function) {
  return run(scan, function, std::max<int64_t>(1, scan.n_tokens()));
}

// An output sums about state_dim * (tokens remembered) terms; errors grow like the root of the
// number of roundings, times the size of the terms (states and products of size 10 to 100 here).
void expect_agree(const Result& found, const Result& expected) {
  double largest = 1;
  for (const float value : expected.y.values())
    largest = std::max(largest, std::abs(double{value}));
  const double tolerance = 40 * kRoundoff * largest;
  expect_near(found.y, expected.y, tolerance);
  expect_near(found.state, expected.state, tolerance);
}

class SsmScan : public testing::TestWithParam<ScanFunction> {
 protected:
  static void SetUpTestSuite() { configure_host_threads(); }
};

TEST_P(SsmScan, WorkedByHand) {
  // One head, one channel, one state: a = -ln 2 halves the state at dt 1 and quarters it at dt 2.
  Scan scan({.n_heads = 1, .head_dim = 1, .n_groups = 1, .state_dim = 1, .chunk = 2}, 3);
  scan.a = {-std::log(2.0f)};
  scan.d = {10};
  scan.x = matrix_of(3, 1, {1, 2, 3});
  scan.b = matrix_of(3, 1, {1, 1, 2});
  scan.c = matrix_of(3, 1, {1, 2, 1});
  scan.dt = matrix_of(3, 1, {1, 1, 2});
  scan.initial = matrix_of(1, 1, {8});
  const Result result = run(scan, GetParam());
  // S: 8 -> 4 + 1 = 5 -> 2.5 + 2 = 4.5 -> 1.125 + 2 * 3 * 2 = 13.125.
  EXPECT_FLOAT_EQ(result.y.values()[0], 5 + 10);
  EXPECT_FLOAT_EQ(result.y.values()[1], 9 + 20);
  EXPECT_FLOAT_EQ(result.y.values()[2], 13.125 + 30);
  EXPECT_FLOAT_EQ(result.state.values()[0], 13.125);
}

TEST_P(SsmScan, AgreesWithReference) {
  const SsmShape shapes[] = {
      {.n_heads = 1, .head_dim = 5, .n_groups = 1, .state_dim = 3, .chunk = 1},
      {.n_heads = 4, .head_dim = 7, .n_groups = 2, .state_dim = 17, .chunk = 8},
      {.n_heads = 6, .head_dim = 16, .n_groups = 2, .state_dim = 32, .chunk = 64},
      {.n_heads = 2, .head_dim = 64, .n_groups = 2, .state_dim = 64, .chunk = 128},
  };
  for (const SsmShape& shape : shapes) {
    for (const int64_t n_tokens : {0, 1, 2, 63, 64, 65, 200}) {
      const Scan scan(shape, n_tokens);
      expect_agree(run(scan, GetParam()), run(scan, ref::ssm_scan_recurrent));
    }
  }
}

TEST_P(SsmScan, CarriesItsState) {
  const Scan scan({.n_heads = 4, .head_dim = 8, .n_groups = 2, .state_dim = 16, .chunk = 32}, 100);
  const Result whole = run(scan, GetParam());
  for (const int64_t part : {1, 31, 32, 33, 99}) expect_agree(run(scan, GetParam(), part), whole);
}

// With dt = 0 a token neither decays nor drives the state: padding.
TEST_P(SsmScan, PaddingLeavesTheState) {
  Scan scan({.n_heads = 2, .head_dim = 4, .n_groups = 1, .state_dim = 8, .chunk = 16}, 20);
  for (float& value : scan.dt.values()) value = 0;
  EXPECT_EQ(flat(run(scan, GetParam()).state), flat(scan.initial));
}

// Strong decay: exponents far below what FP32 can hold, sums of a thousand and more in a chunk.
TEST_P(SsmScan, StrongDecayUnderflowsToZero) {
  Scan scan({.n_heads = 2, .head_dim = 8, .n_groups = 1, .state_dim = 16, .chunk = 64}, 130);
  scan.a = {-1000, -0.01f};
  const Result result = run(scan, GetParam());
  expect_agree(result, run(scan, ref::ssm_scan_recurrent));
}

TEST_P(SsmScan, DoesNotDependOnThreads) {
  const Scan scan({.n_heads = 6, .head_dim = 16, .n_groups = 3, .state_dim = 24, .chunk = 32}, 90);
  expect_thread_count_independent([&] {
    const Result result = run(scan, GetParam());
    std::vector<float> all = flat(result.y);
    const auto state = flat(result.state);
    all.insert(all.end(), state.begin(), state.end());
    return all;
  });
}

// Heads are independent: reversing them with their inputs reverses the outputs.
TEST_P(SsmScan, HeadsAreIndependent) {
  Scan scan({.n_heads = 2, .head_dim = 8, .n_groups = 1, .state_dim = 16, .chunk = 32}, 40);
  const Result result = run(scan, GetParam());
  const auto swap_halves = [](Matrix& matrix) {
    for (int64_t row = 0; row < matrix.rows(); ++row) {
      const auto values = matrix.view().row(row);
      std::rotate(values.begin(), values.begin() + values.size() / 2, values.end());
    }
  };
  swap_halves(scan.x);
  swap_halves(scan.dt);
  std::swap(scan.a[0], scan.a[1]);
  std::swap(scan.d[0], scan.d[1]);
  const auto initial = scan.initial.values();
  std::rotate(initial.begin(), initial.begin() + initial.size() / 2, initial.end());
  Result swapped = run(scan, GetParam());
  swap_halves(swapped.y);
  EXPECT_EQ(flat(swapped.y), flat(result.y));
}

INSTANTIATE_TEST_SUITE_P(Forms, SsmScan, testing::Values(ssm_scan_chunked, ssm_scan_recurrent),
                         [](const auto& info) {
                           return info.param == ssm_scan_chunked ? "chunked" : "recurrent";
                         });

using SsmScanDeathTest = CheckDeathTest;

TEST_F(SsmScanDeathTest, ChecksShapes) {
  const Scan scan({.n_heads = 2, .head_dim = 4, .n_groups = 1, .state_dim = 8, .chunk = 16}, 3);
  Matrix y(3, 8);
  Matrix state(8, 7);
  EXPECT_DEATH(ssm_scan_chunked(scan.shape, scan.inputs(0, 3), state, y), "state");
  EXPECT_DEATH(ssm_scan_recurrent(scan.shape, scan.inputs(0, 2), state, y), "same_shape");
}

}  // namespace
}  // namespace vernier::kernels
