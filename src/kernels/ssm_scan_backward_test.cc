#include "kernels/ssm_scan_backward.h"

#include <numeric>

#include "base/error.h"
#include "kernels/linear.h"
#include "kernels/reference.h"
#include "kernels/scan_test_support.h"

namespace vernier::kernels {
namespace {

// The scan with the gradient of its outputs, before whose columns `skew` belong to nobody.
struct Scan : RandomScan {
  Matrix g_y;

  Scan(const SsmShape& shape, std::vector<int64_t> lengths, int64_t skew = 0)
      : RandomScan(shape, std::move(lengths), skew),
        g_y(random_matrix(n_tokens(), skew + n_channels(), 2)) {}
};

struct Gradients {
  Matrix xbc;  // [tokens, columns]; nobody's are zero
  Matrix dt;
  std::vector<float> a, d;

  explicit Gradients(const Scan& scan)
      : xbc(scan.n_tokens(), scan.n_columns()),
        dt(scan.n_tokens(), scan.shape.n_heads),
        a(scan.shape.n_heads),
        d(scan.shape.n_heads) {}
};

Gradients reference(const Scan& scan) {
  Gradients result(scan);
  int64_t first = 0;
  for (const int64_t n : scan.lengths) {
    const MatrixView rows = result.xbc.view().row_range(first, n);
    ref::ssm_scan_backward(scan.shape, scan.inputs(first, n),
                           scan.x(scan.g_y.view().row_range(first, n)),
                           {.x = scan.x(rows),
                            .b = scan.b(rows),
                            .c = scan.c(rows),
                            .dt = result.dt.view().row_range(first, n),
                            .a = result.a,
                            .d = result.d});
    first += n;
  }
  return result;
}

// What the terms of g_a, among others, add up to when none cancels another.
Gradients sizes(Scan scan) {
  for (float& value : scan.xbc.values()) value = std::abs(value);
  for (float& value : scan.g_y.values()) value = std::abs(value);
  return reference(scan);
}

double norm(std::span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += double{value} * value;
  return std::sqrt(sum);
}

double distance(std::span<const float> found, std::span<const float> expected) {
  double sum = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    sum += (double{found[i]} - expected[i]) * (double{found[i]} - expected[i]);
  }
  return std::sqrt(sum);
}

class SsmScanBackwardOnEveryTarget : public OnEveryTarget {
 protected:
  static void SetUpTestSuite() { configure_host_threads(); }

  Scan random_scan(const SsmShape& shape, std::vector<int64_t> lengths, int64_t skew = 0) const {
    Scan scan(shape, std::move(lengths), skew);
    scan.xbc = rounded(scan.xbc);
    scan.g_y = rounded(scan.g_y);
    return scan;
  }

  // Outputs hold 7 and sums 3 before. Without `wants_sums`, those of a and d are not asked for.
  Gradients run(const Scan& scan, const std::vector<SequenceSpan>& sequences,
                bool wants_sums = true) const {
    const AnyMatrix xbc = activation(scan.xbc);
    const AnyMatrix g_y = activation(scan.g_y);
    const AnyMatrix dt = to_device(scan.dt, device());
    const auto a = vector(scan.a);
    const auto d = vector(scan.d);
    const SsmInputs inputs{.x = scan.x(xbc.view()),
                           .b = scan.b(xbc.view()),
                           .c = scan.c(xbc.view()),
                           .dt = dt,
                           .a = a,
                           .d = d};
    AnyMatrix g_xbc = activation(filled(scan.n_tokens(), scan.n_columns(), 7));
    AnyMatrix g_dt = to_device(filled(scan.n_tokens(), scan.shape.n_heads, 7), device());
    auto g_a = vector(std::vector<float>(scan.a.size(), 3));
    auto g_d = vector(std::vector<float>(scan.a.size(), 3));
    SsmGradients gradients{.x = scan.x(g_xbc.view()),
                           .b = scan.b(g_xbc.view()),
                           .c = scan.c(g_xbc.view()),
                           .dt = g_dt,
                           .a = {},
                           .d = {}};
    if (wants_sums) {
      gradients.a = g_a;
      gradients.d = g_d;
    }
    ssm_scan_backward(scan.shape, inputs, sequences, scan.x(g_y.view()), gradients);
    Gradients result(scan);
    result.xbc = to_host(g_xbc);
    result.dt = to_host(g_dt);
    result.a = g_a.to_host();
    result.d = g_d.to_host();
    return result;
  }
  Gradients run(const Scan& scan, bool wants_sums = true) const {
    std::vector<SequenceSpan> sequences;
    int64_t first = 0;
    for (const int64_t n : scan.lengths) {
      sequences.push_back({first, n});
      first += n;
    }
    return run(scan, sequences, wants_sums);
  }

  // Every output's distance from the reference's, relative to its length. FP32: the sums have a few
  // hundred terms of random sign, whose roundings and the output's grow alike; exponents of size
  // 100 at most. BF16: up to three roundings (of a product's two factors, of the output), each of
  // half an ulp of 2^-8 at most, which are as random as the terms are. The parts of g_a and g_d may
  // cancel: they are held against the length of g_dt; with BF16, where a state's rounding shows in
  // all tokens of a chunk, against what the terms of g_a add up to when none cancels another.
  void expect_agree(const Scan& scan) const {
    SCOPED_TRACE(testing::Message()
                 << scan.shape.n_heads << " heads of " << scan.shape.head_dim << " x "
                 << scan.shape.state_dim << ", " << scan.shape.n_groups << " groups, chunks of "
                 << scan.shape.chunk << ", skew " << scan.skew);
    const Gradients expected = reference(scan);
    Gradients found = run(scan);
    const double tolerance = is_bf16() ? 1.5 * roundoff() : 1e-5;
    const auto compare = [&](const char* name, const std::vector<float>& found,
                             const std::vector<float>& expected, double more = 0) {
      EXPECT_LE(distance(found, expected), tolerance * (norm(expected) + more))
          << name << " of length " << norm(expected);
    };
    const auto columns = [&](const char* name, auto part) {
      compare(name, flat(part(found.xbc.view())), flat(part(expected.xbc.view())));
    };
    columns("x", [&](ConstMatrixView all) { return scan.x(all); });
    columns("b", [&](ConstMatrixView all) { return scan.b(all); });
    columns("c", [&](ConstMatrixView all) { return scan.c(all); });
    const double dt_length = norm(expected.dt.values());
    compare("dt", flat(found.dt), flat(expected.dt));
    for (float& value : found.a) value -= 3;
    for (float& value : found.d) value -= 3;
    compare("a", found.a, expected.a, is_bf16() ? norm(sizes(scan).a) : dt_length);
    compare("d", found.d, expected.d, dt_length);
    const std::vector<float> beside = flat(found.xbc.view().col_range(0, scan.skew));
    EXPECT_THAT(beside, testing::Each(7.0f));
  }

 private:
  static Matrix filled(int64_t rows, int64_t cols, float value) {
    Matrix matrix(rows, cols);
    std::ranges::fill(matrix.values(), value);
    return matrix;
  }
};
VERNIER_ON_EVERY_TARGET(SsmScanBackwardOnEveryTarget);

TEST_P(SsmScanBackwardOnEveryTarget, WorkedByHand) {
  // One head, one channel, one state: a = -ln 2 halves the state at dt 1 and quarters it at dt 2.
  Scan scan({.n_heads = 1, .head_dim = 1, .n_groups = 1, .state_dim = 1, .chunk = 1}, {2});
  scan.a = {-std::log(2.0f)};
  scan.d = {10};
  scan.xbc = matrix_of(2, 3, {3, 1, 1, 2, 4, 5});  // x, b, c of each token
  scan.dt = matrix_of(2, 1, {1, 2});
  scan.g_y = matrix_of(2, 1, {1, 2});
  // States: S_1 = 3, S_2 = 3 / 4 + 2 * 2 * 4 = 16.75. G_2 = 2 * 5 = 10, G_1 = 10 / 4 + 1 = 3.5.
  const float x[] = {3.5f + 10, 2 * 10 * 4 + 20};
  const float b[] = {3.5f * 3, 2 * 10 * 2};
  const float c[] = {3, 2 * 16.75f};
  const float e = 10 * 3 / 4.0f;  // a's part of token 2
  const float dt[] = {3 * 3.5f, 2 * 10 * 4 - std::log(2.0f) * e};
  const Gradients found = run(scan);
  for (int t = 0; t < 2; ++t) {
    SCOPED_TRACE(t);
    const auto row = found.xbc.view().row(t);
    EXPECT_NEAR(row[0], x[t], 4 * roundoff() * x[t]);
    EXPECT_NEAR(row[1], b[t], 4 * roundoff() * b[t]);
    EXPECT_NEAR(row[2], c[t], 4 * roundoff() * c[t]);
    EXPECT_NEAR(found.dt.values()[t], dt[t], 4 * roundoff() * dt[t]);
  }
  EXPECT_NEAR(found.a[0], 3 + 2 * e, 4 * roundoff() * 18);
  EXPECT_NEAR(found.d[0], 3 + 1 * 3 + 2 * 2, 4 * roundoff() * 10);
}

// Lengths around a chunk's in one call; rows of every alignment.
TEST_P(SsmScanBackwardOnEveryTarget, AgreesWithReference) {
  const SsmShape shapes[] = {
      {.n_heads = 1, .head_dim = 5, .n_groups = 1, .state_dim = 3, .chunk = 1},
      {.n_heads = 4, .head_dim = 7, .n_groups = 2, .state_dim = 17, .chunk = 8},
      {.n_heads = 6, .head_dim = 16, .n_groups = 2, .state_dim = 32, .chunk = 64},
      {.n_heads = 4, .head_dim = 64, .n_groups = 2, .state_dim = 64, .chunk = 128},
      {.n_heads = 8, .head_dim = 24, .n_groups = 8, .state_dim = 16, .chunk = 256},
      {.n_heads = 2, .head_dim = 80, .n_groups = 1, .state_dim = 128, .chunk = 128},
      {.n_heads = 2, .head_dim = 128, .n_groups = 1, .state_dim = 40, .chunk = 48},
      {.n_heads = 2, .head_dim = 64, .n_groups = 2, .state_dim = 256, .chunk = 128},
      {.n_heads = 2, .head_dim = 33, .n_groups = 1, .state_dim = 130, .chunk = 64},
  };
  for (const SsmShape& shape : shapes) {
    const int64_t chunk = std::min<int64_t>(shape.chunk, 64);
    for (const int64_t skew : {0, 3, 8}) {
      expect_agree(
          random_scan(shape, {2, chunk - 1, 1, 3 * chunk + 5, 0, chunk, chunk + 1, 300}, skew));
      if (HasFailure()) return;
    }
  }
}

// As many heads in a group as two units of work on the host have, and more.
TEST_P(SsmScanBackwardOnEveryTarget, AgreesWithReferenceForManyHeads) {
  const SsmShape shapes[] = {
      {.n_heads = 32, .head_dim = 64, .n_groups = 2, .state_dim = 128, .chunk = 128},
      {.n_heads = 40, .head_dim = 20, .n_groups = 2, .state_dim = 24, .chunk = 64},
      {.n_heads = 9, .head_dim = 100, .n_groups = 1, .state_dim = 16, .chunk = 64},
  };
  for (const SsmShape& shape : shapes) {
    expect_agree(random_scan(shape, {3, 70, 200}));
    if (HasFailure()) return;
  }
}

TEST_P(SsmScanBackwardOnEveryTarget, ManySequencesInOneCall) {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < 150; ++i) lengths.push_back(i % 7);
  expect_agree(random_scan(
      {.n_heads = 3, .head_dim = 8, .n_groups = 1, .state_dim = 16, .chunk = 3}, lengths));
}

// More states between chunks than a device keeps at once: two groups, one after the other.
TEST_P(SsmScanBackwardOnEveryTarget, GroupsOfHeadsInTurn) {
  const SsmShape shape{.n_heads = 16, .head_dim = 64, .n_groups = 2, .state_dim = 128, .chunk = 1};
  const int64_t n_tokens = 520;
  ASSERT_GT(ssm_scan_backward_scratch_bytes(shape, n_tokens), int64_t{256} << 20);
  ASSERT_LT(ssm_scan_backward_scratch_bytes(shape, n_tokens), int64_t{512} << 20);
  expect_agree(random_scan(shape, {n_tokens}));
}

// Strong decay: exponents far below what FP32 can hold, sums of a thousand and more in a chunk; and
// hardly any.
TEST_P(SsmScanBackwardOnEveryTarget, StrongAndWeakDecay) {
  Scan scan = random_scan(
      {.n_heads = 2, .head_dim = 8, .n_groups = 1, .state_dim = 16, .chunk = 64}, {130});
  scan.a = {-1000, -1e-4f};
  expect_agree(scan);
}

// With dt = 0 a token neither decays nor drives the state: padding.
TEST_P(SsmScanBackwardOnEveryTarget, PaddingGivesNothing) {
  Scan scan = random_scan({.n_heads = 2, .head_dim = 4, .n_groups = 1, .state_dim = 8, .chunk = 16},
                          {20, 3});
  for (float& value : scan.dt.values()) value = 0;
  for (float& value : scan.d) value = 0;
  const Gradients found = run(scan);
  EXPECT_THAT(found.xbc.values(), testing::Each(0.0f));
  EXPECT_THAT(found.a, testing::Each(3.0f));
}

TEST_P(SsmScanBackwardOnEveryTarget, SumsMayBeUnwanted) {
  const Scan scan = random_scan(
      {.n_heads = 4, .head_dim = 8, .n_groups = 2, .state_dim = 16, .chunk = 32}, {100, 7});
  const Gradients wanted = run(scan);
  const Gradients unwanted = run(scan, false);
  EXPECT_EQ(flat(unwanted.xbc), flat(wanted.xbc));
  EXPECT_EQ(flat(unwanted.dt), flat(wanted.dt));
  EXPECT_THAT(unwanted.a, testing::Each(3.0f));
  EXPECT_THAT(unwanted.d, testing::Each(3.0f));
}

TEST_P(SsmScanBackwardOnEveryTarget, OtherRowsAreLeftAlone) {
  const Scan scan =
      random_scan({.n_heads = 2, .head_dim = 8, .n_groups = 1, .state_dim = 16, .chunk = 8}, {30});
  const Gradients found = run(scan, {{20, 9}, {3, 0}, {2, 10}});
  for (const int64_t row : {0, 1, 12, 19, 29}) {
    EXPECT_THAT(found.xbc.view().row(row), testing::Each(7.0f)) << row;
    EXPECT_THAT(found.dt.view().row(row), testing::Each(7.0f)) << row;
  }
  const Gradients none = run(scan, std::vector<SequenceSpan>{});
  EXPECT_THAT(none.xbc.values(), testing::Each(7.0f));
  EXPECT_THAT(none.a, testing::Each(3.0f));
}

TEST_P(SsmScanBackwardOnEveryTarget, DoesNotDependOnThreads) {
  const Scan scan = random_scan(
      {.n_heads = 30, .head_dim = 16, .n_groups = 3, .state_dim = 24, .chunk = 32}, {90, 70});
  expect_thread_count_independent([&] {
    const Gradients found = run(scan);
    std::vector<float> all = flat(found.xbc);
    for (const auto& more : {flat(found.dt), found.a, found.d}) {
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  });
}

TEST_P(SsmScanBackwardOnEveryTarget, DeviceRefusesLargeStates) {
  if (device() == nullptr) return;  // the host takes any
  const Scan scan =
      random_scan({.n_heads = 1, .head_dim = 4, .n_groups = 1, .state_dim = 257, .chunk = 16}, {2});
  try {
    run(scan);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_THAT(error.message(), testing::HasSubstr("state_dim 257"));
  }
}

// The arguments of a scan in double, one after another.
struct Arguments {
  std::vector<double> x, b, c, dt, a, d;
};

// sum g_y . y of one sequence.
double loss(const SsmShape& shape, const Arguments& in, ConstMatrixView g_y) {
  const int64_t n_channels = shape.n_heads * shape.head_dim;
  const int64_t n_bc = shape.n_groups * shape.state_dim;
  double sum = 0;
  for (int64_t row = 0; row < n_channels; ++row) {
    const int64_t head = row / shape.head_dim;
    const int64_t first_state = head / (shape.n_heads / shape.n_groups) * shape.state_dim;
    std::vector<double> state(shape.state_dim);
    for (int64_t t = 0; t < g_y.rows; ++t) {
      const double dt = in.dt[t * shape.n_heads + head];
      const double x = in.x[t * n_channels + row];
      double y = in.d[head] * x;
      for (int64_t n = 0; n < shape.state_dim; ++n) {
        const int64_t place = t * n_bc + first_state + n;
        state[n] = std::exp(dt * in.a[head]) * state[n] + dt * x * in.b[place];
        y += state[n] * in.c[place];
      }
      sum += g_y.row(t)[row] * y;
    }
  }
  return sum;
}

TEST(SsmScanBackwardReference, AgreesWithCentralDifferences) {
  const Scan scan({.n_heads = 4, .head_dim = 3, .n_groups = 2, .state_dim = 2, .chunk = 4}, {7});
  const auto doubles = [](ConstMatrixView view) {
    const std::vector<float> values = flat(view);
    return std::vector<double>(values.begin(), values.end());
  };
  Arguments arguments{.x = doubles(scan.x(scan.xbc.view())),
                      .b = doubles(scan.b(scan.xbc.view())),
                      .c = doubles(scan.c(scan.xbc.view())),
                      .dt = doubles(scan.dt),
                      .a = {scan.a.begin(), scan.a.end()},
                      .d = {scan.d.begin(), scan.d.end()}};
  Gradients found = reference(scan);
  // Differences of step h err by h^2 and by roundings of 2^-53 / h: some 1e-10 of values of size
  // 10; the reference's outputs are rounded to FP32.
  const auto expect_gradient = [&](const char* name, std::vector<double>& values,
                                   const std::vector<float>& gradient) {
    ASSERT_EQ(values.size(), gradient.size());
    for (size_t i = 0; i < values.size(); ++i) {
      constexpr double kStep = 1e-5;
      const double value = values[i];
      values[i] = value + kStep;
      const double above = loss(scan.shape, arguments, scan.g_y);
      values[i] = value - kStep;
      const double below = loss(scan.shape, arguments, scan.g_y);
      values[i] = value;
      const double expected = (above - below) / (2 * kStep);
      EXPECT_NEAR(gradient[i], expected, 1e-6 * std::max(1.0, std::abs(expected)))
          << name << " " << i;
    }
  };
  expect_gradient("x", arguments.x, flat(scan.x(found.xbc.view())));
  expect_gradient("b", arguments.b, flat(scan.b(found.xbc.view())));
  expect_gradient("c", arguments.c, flat(scan.c(found.xbc.view())));
  expect_gradient("dt", arguments.dt, flat(found.dt));
  expect_gradient("a", arguments.a, found.a);
  expect_gradient("d", arguments.d, found.d);
}

TEST(SsmScanBackwardScratch, StaysBounded) {
  const SsmShape super{
      .n_heads = 128, .head_dim = 64, .n_groups = 8, .state_dim = 128, .chunk = 128};
  constexpr int64_t kMegabyte = 1 << 20;
  // 256 places of 16 heads' states and their gradients are 256 MiB a group: two groups at once.
  EXPECT_GE(ssm_scan_backward_scratch_bytes(super, 16384), 512 * kMegabyte);
  EXPECT_LE(ssm_scan_backward_scratch_bytes(super, 16384), 520 * kMegabyte);
  EXPECT_LE(ssm_scan_backward_scratch_bytes(super, 64), 66 * kMegabyte);
  EXPECT_LE(ssm_scan_backward_scratch_bytes(super, 63), kMegabyte);
}

using SsmScanBackwardDeathTest = CheckDeathTest;

TEST_F(SsmScanBackwardDeathTest, ChecksShapes) {
  const SsmShape shape{.n_heads = 2, .head_dim = 4, .n_groups = 1, .state_dim = 8, .chunk = 16};
  const Matrix x(3, 8);
  const Matrix dt(3, 2);
  const std::vector<float> heads(2);
  const SsmInputs inputs{.x = x, .b = x, .c = x, .dt = dt, .a = heads, .d = heads};
  Matrix g_x(3, 8), g_b(3, 8), g_c(3, 8), g_dt(3, 2);
  std::vector<float> g_a(1);
  SsmGradients gradients{.x = g_x, .b = g_b, .c = g_c, .dt = g_dt, .a = {}, .d = {}};
  const SequenceSpan fitting{0, 3};
  const SequenceSpan beyond{1, 3};
  EXPECT_DEATH(ssm_scan_backward(shape, inputs, {&beyond, 1}, x, gradients), "all_within");
  EXPECT_DEATH(ssm_scan_backward(shape, inputs, {&fitting, 1}, dt, gradients), "same_shape");
  gradients.a = std::span<float>(g_a);
  EXPECT_DEATH(ssm_scan_backward(shape, inputs, {&fitting, 1}, x, gradients), "sums.size");
}

}  // namespace
}  // namespace vernier::kernels
