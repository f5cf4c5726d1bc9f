#include "kernels/linear_backward.h"

#include "kernels/linear_test_support.h"

namespace vernier::kernels {
namespace {

// sum g_y (x W^T), whose derivatives the gradients are.
double loss(const Matrix& x, const Matrix& weight, const Matrix& g_y) {
  double sum = 0;
  for (int64_t t = 0; t < x.rows(); ++t) {
    for (int64_t n = 0; n < weight.rows(); ++n) {
      double y = 0;
      for (int64_t k = 0; k < x.cols(); ++k) {
        y += double{x.view().row(t)[k]} * weight.view().row(n)[k];
      }
      sum += y * g_y.view().row(t)[n];
    }
  }
  return sum;
}

// Central differences of the loss by every element of `matrix`, one of its arguments. Values are
// eighths, so that the step is exact in FP32.
Matrix differences(Matrix& matrix, const std::function<double()>& loss_now) {
  constexpr float kStep = 0.125f;
  Matrix result(matrix.rows(), matrix.cols());
  for (size_t i = 0; i < matrix.values().size(); ++i) {
    float& value = matrix.values()[i];
    const float before = value;
    value = before + kStep;
    const double above = loss_now();
    value = before - kStep;
    const double below = loss_now();
    value = before;
    result.values()[i] = static_cast<float>((above - below) / (2 * kStep));
  }
  return result;
}

Matrix random_eighths(int64_t rows, int64_t cols, uint32_t seed) {
  Matrix matrix = random_matrix(rows, cols, seed);
  for (float& value : matrix.values()) value = std::round(value * 8) / 8;
  return matrix;
}

TEST(LinearBackwardReference, AgreesWithCentralDifferences) {
  Matrix x = random_eighths(5, 7, 1);
  Matrix weight = random_eighths(4, 7, 2);
  const Matrix g_y = random_eighths(5, 4, 3);
  const auto loss_now = [&] { return loss(x, weight, g_y); };
  Matrix g_x(5, 7);
  ref::linear_input_gradient(g_y, weight, g_x);
  expect_near(g_x, differences(x, loss_now), 1e-6, 1e-6);
  Matrix g_weight(4, 7);
  ref::linear_weight_gradient(g_y, x, g_weight);
  expect_near(g_weight, differences(weight, loss_now), 1e-6, 1e-6);
}

class LinearBackwardOnEveryTarget : public OnEveryTarget {
 protected:
  static void SetUpTestSuite() { configure_host_threads(); }

  ProductBound bound(int64_t n_terms, DType dtype) const {
    return product_bound(is_bf16(), false, n_terms, dtype);
  }

  // In FP32 and in the type of activations.
  void expect_packed_gradient(ConstMatrixView g_y_values, const formats::PackedView& packed) {
    const Matrix g_y = rounded(g_y_values);
    const formats::PackedTensor weight = to_device(packed, device());
    for (const DType dtype : {DType::kF32, GetParam().compute_dtype}) {
      SCOPED_TRACE(std::string(packed.format->name) + ", " + std::to_string(g_y.rows()) +
                   " tokens, n " + std::to_string(packed.n) + ", k " + std::to_string(packed.k));
      AnyMatrix g_x(g_y.rows(), packed.k, dtype, device());
      linear_input_gradient(activation(g_y), weight.view(), g_x);
      ASSERT_NO_FATAL_FAILURE(
          expect_input_gradient(to_host(g_x), g_y, decoded(packed), bound(packed.n, dtype)));
    }
  }

  void expect_fp32_gradient(ConstMatrixView g_y_values, ConstMatrixView weight) {
    const Matrix g_y = rounded(g_y_values);
    AnyMatrix g_x(g_y.rows(), weight.cols, DType::kF32, device());
    linear_input_gradient(activation(g_y), to_device(weight, device()), g_x);
    expect_input_gradient(to_host(g_x), g_y, weight, {fp32_sums(weight.rows), kRoundoff});
  }

  void expect_added(int64_t n_tokens, int64_t n, int64_t k) {
    SCOPED_TRACE(std::to_string(n_tokens) + " tokens, n " + std::to_string(n) + ", k " +
                 std::to_string(k));
    const Matrix g_y = rounded(random_matrix(n_tokens, n, 4));
    const Matrix x = rounded(random_matrix(n_tokens, k, 5));
    const Matrix before = random_matrix(n, k, 6);
    AnyMatrix g_weight = to_device(before, device());
    linear_weight_gradient(activation(g_y), activation(x), g_weight);
    expect_weight_gradient(to_host(g_weight), before, g_y, x, bound(n_tokens, DType::kF32));
  }
};

TEST_P(LinearBackwardOnEveryTarget, WorkedByHand) {
  const Matrix g_y = matrix_of(2, 2, {1, 2, 0, -1});
  const Matrix x = matrix_of(2, 3, {1, 0, 3, 4, 5, 6});
  const Matrix weight = matrix_of(2, 3, {1, 0, -1, 2, 2, 2});
  AnyMatrix g_x = to_device(matrix_of(2, 3, {9, 9, 9, 9, 9, 9}), device());  // overwritten
  linear_input_gradient(activation(g_y), to_device(weight, device()), g_x);
  EXPECT_THAT(to_host(g_x).values(), testing::ElementsAre(5, 4, 3, -2, -2, -2));
  AnyMatrix g_weight = to_device(matrix_of(2, 3, {10, 0, 0, 0, 0, 0}), device());  // added to
  linear_weight_gradient(activation(g_y), activation(x), g_weight);
  EXPECT_THAT(to_host(g_weight).values(), testing::ElementsAre(11, 0, 3, -2, -5, 0));
}

TEST_P(LinearBackwardOnEveryTarget, Fp32WeightAgreesWithReference) {
  for (const int64_t n_tokens : {0, 1, 2, 65, 300}) {
    for (const int64_t n : {1, 3, 130}) {
      for (const int64_t k : {1, 17, 64, 200}) {
        expect_fp32_gradient(random_matrix(n_tokens, n, 1), random_matrix(n, k, 2));
      }
    }
  }
}

// Enough tokens and columns for several tiles in both directions, with remainders.
TEST_P(LinearBackwardOnEveryTarget, AgreesWithReferenceOverManyTiles) {
  expect_fp32_gradient(random_matrix(1100, 20, 7), random_matrix(20, 530, 8));
  expect_added(20, 1100, 530);
}

TEST_P(LinearBackwardOnEveryTarget, EveryFormatAgreesWithReference) {
  for (const formats::Format* format : formats::all_formats()) {
    for (const int64_t n : {1, 19, 48, 272}) {
      for (const int64_t k : {16, 48, 160}) {
        const Tensor source = bf16_weight(n, k, 11);
        const formats::PackedTensor packed = format->encode(source.view(), {});
        for (const int64_t n_tokens : {0, 1, 3, 31, 65, 200}) {
          expect_packed_gradient(random_matrix(n_tokens, n, 12), packed.view());
        }
      }
    }
  }
}

TEST_P(LinearBackwardOnEveryTarget, Bf16TakesAnyShape) {
  for (const int64_t n : {1, 7, 33, 40}) {
    for (const int64_t k : {1, 7, 17, 201}) {
      const Tensor source = bf16_weight(n, k, 17);
      const formats::PackedTensor packed = formats::bf16_format().encode(source.view(), {});
      for (const int64_t n_tokens : {1, 9, 65}) {
        expect_packed_gradient(random_matrix(n_tokens, n, 18), packed.view());
      }
    }
  }
}

// On the host more than one tile of decoded rows.
TEST_P(LinearBackwardOnEveryTarget, LongSums) {
  const Tensor source = bf16_weight(4500, 1008, 19);
  const formats::PackedTensor packed = formats::find_format("fp8_e4m3")->encode(source.view(), {});
  expect_packed_gradient(random_matrix(1, 4500, 20), packed.view());
}

// A module that stays unquantized keeps the type it had in the checkpoint; BF16 values here, which
// FP32 holds.
TEST_P(LinearBackwardOnEveryTarget, UnquantizedPlanesInFp32) {
  const Tensor source = bf16_weight(24, 32, 21);
  const Matrix values = decoded(formats::bf16_format().encode(source.view(), {}).view());
  const AnyMatrix there = to_device(values, device());
  const formats::PackedView weight{
      .format = &formats::bf16_format(),
      .n = 24,
      .k = 32,
      .planes = {TensorView{
          DType::kF32, {24, 32}, static_cast<const std::byte*>(there.view().data), device()}}};
  const Matrix g_y = rounded(random_matrix(40, 24, 22));
  AnyMatrix g_x = new_output(40, 32);
  linear_input_gradient(activation(g_y), weight, g_x);
  expect_input_gradient(to_host(g_x), g_y, values, bound(24, g_x.dtype()));
}

TEST_P(LinearBackwardOnEveryTarget, WeightGradientsAreAdded) {
  for (const int64_t n_tokens : {0, 1, 3, 64, 65, 300}) {
    for (const int64_t n : {1, 19, 48, 130}) {
      for (const int64_t k : {1, 17, 64}) expect_added(n_tokens, n, k);
    }
  }
  expect_added(2500, 24, 40);
}

TEST_P(LinearBackwardOnEveryTarget, AnEmptyWeightGradientIsNotWanted) {
  const Matrix g_y = rounded(random_matrix(4, 8, 23));
  const Matrix x = rounded(random_matrix(4, 16, 24));
  linear_weight_gradient(activation(g_y), activation(x), AnyMatrixView());
}

// Gradients in FP32 meet a BF16 product rounded.
TEST_P(LinearBackwardOnEveryTarget, Fp32GradientsAreRoundedToTheComputeType) {
  const Matrix g_y = random_matrix(70, 32, 25);
  const Matrix x = random_matrix(70, 64, 26);
  const AnyMatrix g_y_there = to_device(g_y, device());
  for (const formats::Format* format : formats::all_formats()) {
    const Tensor source = bf16_weight(32, 64, 27);
    const formats::PackedTensor packed = format->encode(source.view(), {});
    const formats::PackedTensor weight = to_device(packed.view(), device());
    AnyMatrix g_x = new_output(70, 64);
    linear_input_gradient(g_y_there, weight.view(), g_x);
    expect_input_gradient(to_host(g_x), rounded(g_y), decoded(packed.view()),
                          bound(32, g_x.dtype()));
  }
  AnyMatrix g_weight = new_zeros(32, 64, device());
  linear_weight_gradient(g_y_there, to_device(x, device()), g_weight);
  expect_weight_gradient(to_host(g_weight), Matrix(32, 64), rounded(g_y), rounded(x),
                         bound(70, DType::kF32));
}

// Operands are column ranges of wider matrices, aligned and not.
TEST_P(LinearBackwardOnEveryTarget, StridedInputGradients) {
  const Matrix wide_g_y = rounded(random_matrix(20, 64, 28));
  const AnyMatrix there = activation(wide_g_y);
  for (const formats::Format* format : formats::all_formats()) {
    const Tensor source = bf16_weight(32, 64, 29);
    const formats::PackedTensor packed = format->encode(source.view(), {});
    const formats::PackedTensor weight = to_device(packed.view(), device());
    for (const int64_t offset : {7, 16}) {
      AnyMatrix wide_g_x = activation(Matrix(20, 96));
      linear_input_gradient(there.view().col_range(offset, 32), weight.view(),
                            wide_g_x.view().col_range(offset, 64));
      const Matrix found = to_host(wide_g_x);
      expect_input_gradient(found.view().col_range(offset, 64),
                            wide_g_y.view().col_range(offset, 32), decoded(packed.view()),
                            bound(32, wide_g_x.dtype()));
      for (int64_t t = 0; t < 20; ++t) {
        EXPECT_EQ(found.view().row(t)[offset - 1], 0.0f);
        EXPECT_EQ(found.view().row(t)[offset + 64], 0.0f);
      }
    }
  }
}

TEST_P(LinearBackwardOnEveryTarget, StridedWeightGradients) {
  const Matrix wide_g_y = rounded(random_matrix(50, 64, 30));
  const Matrix wide_x = rounded(random_matrix(50, 90, 31));
  const AnyMatrix g_y_there = activation(wide_g_y);
  const AnyMatrix x_there = activation(wide_x);
  for (const int64_t offset : {7, 16}) {
    AnyMatrix wide_g_weight = new_zeros(32, 96, device());
    linear_weight_gradient(g_y_there.view().col_range(offset, 32),
                           x_there.view().col_range(offset, 64),
                           wide_g_weight.view().col_range(offset, 64));
    const Matrix found = to_host(wide_g_weight);
    expect_weight_gradient(found.view().col_range(offset, 64), Matrix(32, 64),
                           wide_g_y.view().col_range(offset, 32),
                           wide_x.view().col_range(offset, 64), bound(50, DType::kF32));
    for (int64_t n = 0; n < 32; ++n) {
      EXPECT_EQ(found.view().row(n)[offset - 1], 0.0f);
      EXPECT_EQ(found.view().row(n)[offset + 64], 0.0f);
    }
  }
}

TEST_P(LinearBackwardOnEveryTarget, RepeatsBitForBit) {
  const Matrix g_y = rounded(random_matrix(1000, 160, 32));
  const Matrix x = rounded(random_matrix(1000, 96, 33));
  const Tensor source = bf16_weight(160, 96, 34);
  const formats::PackedTensor packed = formats::bf16_format().encode(source.view(), {});
  const formats::PackedTensor weight = to_device(packed.view(), device());
  const auto run = [&] {
    AnyMatrix g_x = new_output(1000, 96);
    AnyMatrix g_weight = new_zeros(160, 96, device());
    linear_input_gradient(activation(g_y), weight.view(), g_x);
    linear_weight_gradient(activation(g_y), activation(x), g_weight);
    std::vector<float> all = flat(to_host(g_x));
    const std::vector<float> more = flat(to_host(g_weight));
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  EXPECT_TRUE(same_bits(run(), run()));
}

// Groups without rows among others, whose rules do not matter.
TEST_P(LinearBackwardOnEveryTarget, GroupsOfAllFormatsAndSizes) {
  constexpr int64_t kN = 48;
  constexpr int64_t kK = 64;
  std::vector<int64_t> begin = {0};
  std::vector<formats::PackedTensor> host, there;
  std::vector<GroupWeight> groups;
  for (const int64_t n_rows : {0, 1, 0, 33, 70}) {
    for (const formats::Format* format : formats::all_formats()) {
      begin.push_back(begin.back() + n_rows);
      const Tensor source = bf16_weight(kN, kK, static_cast<uint32_t>(40 + host.size()));
      host.push_back(format->encode(source.view(), {}));
      there.push_back(to_device(host.back().view(), device()));
      const bool has_rule = format->input_divisor > 0;
      groups.push_back({there.back().view(), has_rule ? InputRule{format, 0.01f} : InputRule{}});
    }
  }
  const Matrix g_y = rounded(random_matrix(begin.back(), kN, 35));
  AnyMatrix g_x = new_output(begin.back(), kK);
  grouped_input_gradient(activation(g_y), begin, groups, g_x);
  const Matrix found = to_host(g_x);
  for (size_t index = 0; index < groups.size(); ++index) {
    SCOPED_TRACE("group " + std::to_string(index));
    const int64_t n_rows = begin[index + 1] - begin[index];
    expect_input_gradient(found.view().row_range(begin[index], n_rows),
                          g_y.view().row_range(begin[index], n_rows), decoded(host[index].view()),
                          bound(kN, g_x.dtype()));
  }
}

// Odd rows, and gradients of another type than the compute type's.
TEST_P(LinearBackwardOnEveryTarget, GroupsOfOddShapesInFp32) {
  const Tensor source = bf16_weight(17, 37, 36);
  const formats::PackedTensor packed = formats::bf16_format().encode(source.view(), {});
  const formats::PackedTensor weight = to_device(packed.view(), device());
  const Matrix g_y = random_matrix(45, 17, 37);
  AnyMatrix g_x(45, 37, DType::kF32, device());
  const std::vector<int64_t> begin = {0, 5, 5, 45};
  const std::vector<GroupWeight> groups(3, {weight.view(), {}});
  grouped_input_gradient(to_device(g_y, device()), begin, groups, g_x);
  expect_input_gradient(to_host(g_x), rounded(g_y), decoded(packed.view()), bound(17, DType::kF32));
}

TEST_P(LinearBackwardOnEveryTarget, NoGroupsAndNoRows) {
  const std::vector<int64_t> begin = {0};
  grouped_input_gradient(new_output(0, 8), begin, {}, new_output(0, 16));
  linear_weight_gradient(new_output(0, 8), new_output(0, 16), new_zeros(8, 16, device()));
}

VERNIER_ON_EVERY_TARGET(LinearBackwardOnEveryTarget);

class LinearBackwardOnHost : public testing::Test {
 protected:
  static void SetUpTestSuite() { configure_host_threads(); }
};

TEST_F(LinearBackwardOnHost, InputGradientsDoNotDependOnThreads) {
  const Tensor source = bf16_weight(4500, 1008, 14);  // two tiles of decoded rows
  const formats::PackedTensor packed = formats::find_format("fp8_e4m3")->encode(source.view(), {});
  for (const int64_t n_tokens : {1, 150}) {
    const Matrix g_y = random_matrix(n_tokens, 4500, 15);
    expect_thread_count_independent([&] {
      Matrix g_x(n_tokens, 1008);
      linear_input_gradient(g_y, packed.view(), g_x);
      return flat(g_x);
    });
  }
}

TEST_F(LinearBackwardOnHost, FormatsDoNotDependOnThreads) {
  for (const formats::Format* format : formats::all_formats()) {
    const Tensor source = bf16_weight(300, 608, 38);
    const formats::PackedTensor packed = format->encode(source.view(), {});
    const Matrix g_y = random_matrix(150, 300, 39);
    expect_thread_count_independent([&] {
      Matrix g_x(150, 608);
      linear_input_gradient(g_y, packed.view(), g_x);
      return flat(g_x);
    });
  }
}

TEST_F(LinearBackwardOnHost, WeightGradientsDoNotDependOnThreads) {
  const Matrix g_y = random_matrix(700, 300, 16);
  const Matrix x = random_matrix(700, 140, 17);
  expect_thread_count_independent([&] {
    Matrix g_weight(300, 140);
    linear_weight_gradient(g_y, x, g_weight);
    return flat(g_weight);
  });
}

using LinearBackwardDeathTest = CheckDeathTest;

TEST_F(LinearBackwardDeathTest, ChecksShapes) {
  Matrix g_y(2, 4);
  Matrix weight(5, 3);
  Matrix g_x(2, 3);
  EXPECT_DEATH(linear_input_gradient(g_y, weight, g_x), "weight.rows");
  EXPECT_DEATH(linear_input_gradient(g_y, formats::PackedView{}, g_x), "format");
  Matrix g_weight(4, 4);
  EXPECT_DEATH(linear_weight_gradient(g_y, g_x, g_weight), "g_weight");
}

}  // namespace
}  // namespace vernier::kernels
