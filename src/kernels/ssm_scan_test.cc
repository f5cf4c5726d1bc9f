#include "kernels/ssm_scan.h"

#include <numeric>

#include "base/error.h"
#include "kernels/linear.h"
#include "kernels/reference.h"
#include "kernels/scan_test_support.h"

namespace vernier::kernels {
namespace {

using ScanFunction = void (*)(const SsmShape&, const SsmInputs&, std::span<const ScanSequence>,
                              AnyMatrixView);
struct Form {
  const char* name;
  ScanFunction scan;
};
constexpr Form kForms[] = {{"chunked", ssm_scan_chunked}, {"recurrent", ssm_scan_recurrent}};

// The scan with states at the start, beside which `skew` columns belong to nobody.
struct Scan : RandomScan {
  Matrix initial;

  Scan(const SsmShape& shape, std::vector<int64_t> lengths, int64_t skew = 0)
      : RandomScan(shape, std::move(lengths), skew),
        initial(random_matrix(n_sequences() * n_channels(), shape.state_dim + skew, 5)) {}

  int64_t n_sequences() const { return std::ssize(lengths); }

  template <class View>
  View state(const View& states, int64_t sequence) const {
    return states.row_range(sequence * n_channels(), n_channels()).col_range(0, shape.state_dim);
  }
};

struct Result {
  Matrix y;       // [tokens, channels]
  Matrix states;  // [sequences * channels, state_dim + skew]
};

Result reference(const Scan& scan) {
  Result result{Matrix(scan.n_tokens(), scan.n_channels()), scan.initial};
  int64_t first = 0;
  for (int64_t i = 0; i < scan.n_sequences(); ++i) {
    const int64_t n = scan.lengths[i];
    ref::ssm_scan_recurrent(scan.shape, scan.inputs(first, n), scan.state(result.states.view(), i),
                            result.y.view().row_range(first, n));
    first += n;
  }
  return result;
}

// What the terms of the sums add up to when none cancels another.
Result sizes(Scan scan) {
  for (float& value : scan.xbc.values()) value = std::abs(value);
  for (float& value : scan.initial.values()) value = std::abs(value);
  for (float& value : scan.d) value = std::abs(value);
  return reference(scan);
}

class SsmScanOnEveryTarget : public OnEveryTarget {
 protected:
  static void SetUpTestSuite() { configure_host_threads(); }

  Scan random_scan(const SsmShape& shape, std::vector<int64_t> lengths, int64_t skew = 0) const {
    Scan scan(shape, std::move(lengths), skew);
    scan.xbc = rounded(scan.xbc);
    return scan;
  }

  // Runs the scan in calls of up to `part` tokens of every sequence.
  Result run(const Scan& scan, ScanFunction function, int64_t part = 1 << 30) const {
    const AnyMatrix xbc = activation(scan.xbc);
    const AnyMatrix dt = to_device(scan.dt, device());
    AnyMatrix states = to_device(scan.initial, device());
    AnyMatrix y = new_output(scan.n_tokens(), scan.skew + scan.n_channels());
    const AnyMatrixView own_y = scan.x(y.view());
    const auto a = vector(scan.a);
    const auto d = vector(scan.d);
    const SsmInputs inputs{.x = scan.x(xbc.view()),
                           .b = scan.b(xbc.view()),
                           .c = scan.c(xbc.view()),
                           .dt = dt,
                           .a = a,
                           .d = d};
    const int64_t longest = *std::ranges::max_element(scan.lengths);
    for (int64_t done = 0; done == 0 || done < longest; done += part) {
      std::vector<ScanSequence> sequences;
      int64_t first = 0;
      for (int64_t i = 0; i < scan.n_sequences(); ++i) {
        const int64_t begin = std::min(done, scan.lengths[i]);
        sequences.push_back(
            {first + begin, std::min(part, scan.lengths[i] - begin), scan.state(states.view(), i)});
        first += scan.lengths[i];
      }
      function(scan.shape, inputs, sequences, own_y);
    }
    return {to_host(own_y), to_host(states)};
  }

  // Both forms, in calls of up to `part` tokens of every sequence, against the reference. FP32:
  // errors grow like the root of the number of roundings, times the size of the largest output
  // (states and products of size 10 to 100 here). BF16: beside that, factors of products are
  // rounded: of a term of the state, B with its decay; of a term of an output, that and the state,
  // or M; and the output itself.
  void expect_agree(const Scan& scan, std::initializer_list<int64_t> parts = {1 << 30}) const {
    const Result expected = reference(scan);
    const Result size = is_bf16() ? sizes(scan) : expected;
    double largest = 1;
    for (const float value : expected.y.values()) {
      largest = std::max(largest, std::abs(double{value}));
    }
    const double absolute = 40 * kRoundoff * largest;
    const double relative = is_bf16() ? 1.01 * roundoff() : 0;
    for (const Form& form : kForms) {
      for (const int64_t part : parts) {
        SCOPED_TRACE(testing::Message() << form.name << ", " << scan.shape.n_heads << " heads of "
                                        << scan.shape.head_dim << " x " << scan.shape.state_dim
                                        << ", skew " << scan.skew << ", parts of " << part);
        const Result found = run(scan, form.scan, part);
        expect_within(found.y, expected.y, size.y, absolute, 3 * relative);
        expect_within(found.states, expected.states, size.states, absolute, relative);
      }
    }
  }

 private:
  static void expect_within(ConstMatrixView found, ConstMatrixView expected, ConstMatrixView size,
                            double absolute, double relative) {
    for (int64_t row = 0; row < found.rows; ++row) {
      for (int64_t col = 0; col < found.cols; ++col) {
        ASSERT_NEAR(found.row(row)[col], expected.row(row)[col],
                    absolute + relative * size.row(row)[col])
            << "row " << row << ", column " << col;
      }
    }
  }
};
VERNIER_ON_EVERY_TARGET(SsmScanOnEveryTarget);

TEST_P(SsmScanOnEveryTarget, WorkedByHand) {
  // One head, one channel, one state: a = -ln 2 halves the state at dt 1 and quarters it at dt 2.
  Scan scan({.n_heads = 1, .head_dim = 1, .n_groups = 1, .state_dim = 1, .chunk = 2}, {3});
  scan.a = {-std::log(2.0f)};
  scan.d = {10};
  scan.xbc = matrix_of(3, 3, {1, 1, 1, 2, 1, 2, 3, 2, 1});  // x, b, c of each token
  scan.dt = matrix_of(3, 1, {1, 1, 2});
  scan.initial = matrix_of(1, 1, {8});
  for (const Form& form : kForms) {
    SCOPED_TRACE(form.name);
    const Result result = run(scan, form.scan);
    // S: 8 -> 4 + 1 = 5 -> 2.5 + 2 = 4.5 -> 1.125 + 2 * 3 * 2 = 13.125.
    const float expected[] = {5 + 10, 9 + 20, 13.125 + 30};
    for (int i = 0; i < 3; ++i) {
      EXPECT_NEAR(result.y.values()[i], expected[i], 4 * roundoff() * expected[i]);
    }
    EXPECT_NEAR(result.states.values()[0], 13.125, 4 * roundoff() * 13.125);
  }
}

// Many lengths around a chunk's in one call; rows of every alignment.
TEST_P(SsmScanOnEveryTarget, AgreesWithReference) {
  const SsmShape shapes[] = {
      {.n_heads = 1, .head_dim = 5, .n_groups = 1, .state_dim = 3, .chunk = 1},
      {.n_heads = 4, .head_dim = 7, .n_groups = 2, .state_dim = 17, .chunk = 8},
      {.n_heads = 6, .head_dim = 16, .n_groups = 2, .state_dim = 32, .chunk = 64},
      {.n_heads = 2, .head_dim = 64, .n_groups = 2, .state_dim = 64, .chunk = 128},
      {.n_heads = 8, .head_dim = 24, .n_groups = 8, .state_dim = 16, .chunk = 256},
      {.n_heads = 2, .head_dim = 80, .n_groups = 1, .state_dim = 128, .chunk = 128},
      {.n_heads = 2, .head_dim = 128, .n_groups = 1, .state_dim = 40, .chunk = 48},
      {.n_heads = 2, .head_dim = 64, .n_groups = 2, .state_dim = 256, .chunk = 128},
      {.n_heads = 2, .head_dim = 33, .n_groups = 1, .state_dim = 130, .chunk = 64},
  };
  for (const SsmShape& shape : shapes) {
    for (const int64_t skew : {0, 3, 8}) {
      expect_agree(random_scan(shape, {2, 130, 1, 0, 63, 64, 300, 65}, skew));
      if (HasFatalFailure()) return;
    }
  }
}

// Heads enough that a device takes whole ones, not slices.
TEST_P(SsmScanOnEveryTarget, AgreesWithReferenceForManyHeads) {
  const SsmShape shapes[] = {
      {.n_heads = 160, .head_dim = 64, .n_groups = 8, .state_dim = 128, .chunk = 128},
      {.n_heads = 160, .head_dim = 80, .n_groups = 8, .state_dim = 24, .chunk = 256},
      {.n_heads = 160, .head_dim = 100, .n_groups = 1, .state_dim = 16, .chunk = 64},
      {.n_heads = 160, .head_dim = 20, .n_groups = 1, .state_dim = 16, .chunk = 64},
      {.n_heads = 160, .head_dim = 40, .n_groups = 2, .state_dim = 200, .chunk = 64},
  };
  for (const SsmShape& shape : shapes) {
    expect_agree(random_scan(shape, {3, 70}));
    if (HasFatalFailure()) return;
  }
}

// More than a launch on a device takes.
TEST_P(SsmScanOnEveryTarget, ManySequencesInOneCall) {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < 150; ++i) lengths.push_back(i % 7);
  const Scan scan = random_scan(
      {.n_heads = 3, .head_dim = 8, .n_groups = 1, .state_dim = 16, .chunk = 64}, lengths);
  expect_agree(scan);
}

TEST_P(SsmScanOnEveryTarget, NoSequencesLeaveNothing) {
  const Scan scan = random_scan(
      {.n_heads = 2, .head_dim = 8, .n_groups = 1, .state_dim = 16, .chunk = 64}, {0, 0});
  for (const Form& form : kForms) {
    EXPECT_EQ(flat(run(scan, form.scan).states), flat(scan.initial));
  }
}

TEST_P(SsmScanOnEveryTarget, CarriesItsState) {
  const Scan scan = random_scan(
      {.n_heads = 4, .head_dim = 8, .n_groups = 2, .state_dim = 16, .chunk = 32}, {100, 7, 64});
  expect_agree(scan, {1, 31, 32, 33, 99});
}

// The recurrence does the same whichever call a token comes with, up to the rounding of y alone.
TEST_P(SsmScanOnEveryTarget, RecurrenceCarriesItsStateExactly) {
  const Scan scan = random_scan(
      {.n_heads = 4, .head_dim = 8, .n_groups = 2, .state_dim = 16, .chunk = 32}, {20, 7});
  const Result whole = run(scan, ssm_scan_recurrent);
  const Result parts = run(scan, ssm_scan_recurrent, 3);
  EXPECT_EQ(flat(parts.y), flat(whole.y));
  EXPECT_EQ(flat(parts.states), flat(whole.states));
}

// With dt = 0 a token neither decays nor drives the state: padding.
TEST_P(SsmScanOnEveryTarget, PaddingLeavesTheState) {
  Scan scan = random_scan({.n_heads = 2, .head_dim = 4, .n_groups = 1, .state_dim = 8, .chunk = 16},
                          {20, 3});
  for (float& value : scan.dt.values()) value = 0;
  for (const Form& form : kForms) {
    EXPECT_EQ(flat(run(scan, form.scan).states), flat(scan.initial));
  }
}

// Strong decay: exponents far below what FP32 can hold, sums of a thousand and more in a chunk.
TEST_P(SsmScanOnEveryTarget, StrongDecayUnderflowsToZero) {
  Scan scan = random_scan(
      {.n_heads = 2, .head_dim = 8, .n_groups = 1, .state_dim = 16, .chunk = 64}, {130});
  scan.a = {-1000, -0.01f};
  expect_agree(scan);
}

TEST_P(SsmScanOnEveryTarget, DoesNotDependOnThreads) {
  const Scan scan = random_scan(
      {.n_heads = 6, .head_dim = 16, .n_groups = 3, .state_dim = 24, .chunk = 32}, {90, 70});
  for (const Form& form : kForms) {
    expect_thread_count_independent([&] {
      const Result result = run(scan, form.scan);
      std::vector<float> all = flat(result.y);
      const auto states = flat(result.states);
      all.insert(all.end(), states.begin(), states.end());
      return all;
    });
  }
}

// Heads are independent: reversing them with their inputs reverses the outputs.
TEST_P(SsmScanOnEveryTarget, HeadsAreIndependent) {
  const Scan scan =
      random_scan({.n_heads = 2, .head_dim = 8, .n_groups = 1, .state_dim = 16, .chunk = 32}, {40});
  const auto swap_halves = [](MatrixView matrix) {
    for (int64_t row = 0; row < matrix.rows; ++row) {
      const auto values = matrix.row(row);
      std::rotate(values.begin(), values.begin() + values.size() / 2, values.end());
    }
  };
  Scan reversed = scan;
  swap_halves(reversed.x(reversed.xbc.view()));
  swap_halves(reversed.dt);
  std::swap(reversed.a[0], reversed.a[1]);
  std::swap(reversed.d[0], reversed.d[1]);
  const auto initial = reversed.initial.values();
  std::rotate(initial.begin(), initial.begin() + initial.size() / 2, initial.end());
  for (const Form& form : kForms) {
    Result found = run(reversed, form.scan);
    swap_halves(found.y);
    EXPECT_EQ(flat(found.y), flat(run(scan, form.scan).y));
  }
}

TEST_P(SsmScanOnEveryTarget, DeviceRefusesLargeStates) {
  if (device() == nullptr) return;  // the host takes any
  const Scan scan =
      random_scan({.n_heads = 1, .head_dim = 4, .n_groups = 1, .state_dim = 257, .chunk = 16}, {2});
  for (const Form& form : kForms) {
    try {
      run(scan, form.scan);
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
      EXPECT_THAT(error.message(), testing::HasSubstr("state_dim 257"));
    }
  }
}

using SsmScanDeathTest = CheckDeathTest;

TEST_F(SsmScanDeathTest, ChecksShapes) {
  const SsmShape shape{.n_heads = 2, .head_dim = 4, .n_groups = 1, .state_dim = 8, .chunk = 16};
  const Matrix x(3, 8);
  const Matrix dt(3, 2);
  const std::vector<float> heads(2);
  const SsmInputs inputs{.x = x, .b = x, .c = x, .dt = dt, .a = heads, .d = heads};
  Matrix y(3, 8);
  Matrix short_y(2, 8);
  Matrix state(8, 8);
  Matrix narrow_state(8, 7);
  const ScanSequence fitting{0, 3, state};
  const ScanSequence narrow{0, 3, narrow_state};
  const ScanSequence beyond{1, 3, state};
  EXPECT_DEATH(ssm_scan_chunked(shape, inputs, {&narrow, 1}, y), "state");
  EXPECT_DEATH(ssm_scan_recurrent(shape, inputs, {&fitting, 1}, short_y), "same_shape");
  EXPECT_DEATH(ssm_scan_recurrent(shape, inputs, {&beyond, 1}, y), "all_within");
}

}  // namespace
}  // namespace vernier::kernels
