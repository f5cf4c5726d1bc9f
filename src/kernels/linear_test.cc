#include "kernels/linear.h"

#include "formats/fp16.h"
#include "kernels/elementwise.h"
#include "kernels/linear_test_support.h"

namespace vernier::kernels {
namespace {

class LinearOnEveryTarget : public OnEveryTarget {
 protected:
  static void SetUpTestSuite() { configure_host_threads(); }

  // With a weight in FP32, as the router's: no reduced precision anywhere, x apart.
  void expect_fp32_product(ConstMatrixView x_values, ConstMatrixView weight) {
    const Matrix x = rounded(x_values);
    AnyMatrix y(x.rows(), weight.rows, DType::kF32, device());
    linear(activation(x), to_device(weight, device()), y);
    expect_product(to_host(y), x, weight, {fp32_sums(x.cols()), kRoundoff});
  }

  ProductBound bound(const InputRule& rule, int64_t k, DType y_dtype) const {
    const bool is_fp8 = is_bf16() && rule.format != nullptr && rule.format->name == "fp8_e4m3";
    return product_bound(is_bf16(), is_fp8, k, y_dtype);
  }

  // Output in FP32 and in the type of activations; inputs as they are and rounded by the rule.
  void expect_packed_product(ConstMatrixView x_values, const formats::PackedView& packed) {
    const Matrix x = rounded(x_values);
    const formats::PackedTensor weight = to_device(packed, device());
    for (const InputRule& rule : {InputRule{}, rule_for(*packed.format, x)}) {
      for (const DType y_dtype : {DType::kF32, GetParam().compute_dtype}) {
        AnyMatrix y(x.rows(), packed.n, y_dtype, device());
        linear(activation(x), weight.view(), rule, y);
        SCOPED_TRACE(std::string(packed.format->name) + ", " + std::to_string(x.rows()) +
                     " tokens, n " + std::to_string(packed.n) + ", k " + std::to_string(packed.k) +
                     (rule.format ? ", with a rule" : ""));
        ASSERT_NO_FATAL_FAILURE(expect_product(to_host(y), rounded_by(rule, x), decoded(packed),
                                               bound(rule, packed.k, y_dtype)));
      }
    }
  }
};

TEST_P(LinearOnEveryTarget, WorkedByHand) {
  const Matrix x = matrix_of(1, 3, {1, 2, 3});
  const Matrix weight = matrix_of(2, 3, {1, 0, -1, 2, 2, 2});
  AnyMatrix y = to_device(matrix_of(1, 2, {99, 99}), device());  // overwritten
  linear(activation(x), to_device(weight, device()), y);
  EXPECT_THAT(to_host(y).values(), testing::ElementsAre(-2, 12));
}

TEST_P(LinearOnEveryTarget, Fp32WeightAgreesWithReference) {
  for (const int64_t n_tokens : {0, 1, 2, 7, 64, 65, 300}) {
    for (const int64_t n : {1, 3, 130, 300}) {
      for (const int64_t k : {1, 17, 64, 200}) {
        expect_fp32_product(random_matrix(n_tokens, k, 1), random_matrix(n, k, 2));
      }
    }
  }
}

// Enough tokens and columns for several tiles in both directions, with remainders.
TEST_P(LinearOnEveryTarget, AgreesWithReferenceOverManyTiles) {
  expect_fp32_product(random_matrix(1100, 20, 3), random_matrix(530, 20, 4));
}

TEST_P(LinearOnEveryTarget, EveryFormatAgreesWithReference) {
  for (const formats::Format* format : formats::all_formats()) {
    for (const int64_t n_tokens : {0, 1, 3, 8, 31, 64, 65, 200}) {
      for (const int64_t n : {1, 19, 48, 272}) {
        for (const int64_t k : {16, 48, 160}) {
          const Tensor source = bf16_weight(n, k, 11);
          const formats::PackedTensor packed = format->encode(source.view(), {});
          expect_packed_product(random_matrix(n_tokens, k, 12), packed.view());
        }
      }
    }
  }
}

TEST_P(LinearOnEveryTarget, Bf16TakesAnyK) {
  for (const int64_t n_tokens : {1, 9, 65}) {
    for (const int64_t k : {1, 7, 17, 40, 201}) {
      const Tensor source = bf16_weight(33, k, 17);
      const formats::PackedTensor packed = formats::bf16_format().encode(source.view(), {});
      expect_packed_product(random_matrix(n_tokens, k, 18), packed.view());
    }
  }
}

// Long sums, split among a block's warps where tokens are few.
TEST_P(LinearOnEveryTarget, LongRows) {
  for (const formats::Format* format : formats::all_formats()) {
    const Tensor source = bf16_weight(20, 5408, 19);
    const formats::PackedTensor packed = format->encode(source.view(), {});
    for (const int64_t n_tokens : {1, 12}) {
      expect_packed_product(random_matrix(n_tokens, 5408, 20), packed.view());
    }
  }
}

// A module that stays unquantized keeps the type it had in the checkpoint. Sixty-fourths, so that
// every type holds the values.
TEST_P(LinearOnEveryTarget, UnquantizedPlanesOfOtherTypes) {
  Matrix values = random_matrix(24, 32, 21);
  for (float& value : values.values()) value = std::round(value * 64) / 64;
  for (float& value : values.values()) value = std::clamp(value, -1.5f, 1.5f);
  const Matrix x = rounded(random_matrix(40, 32, 22));
  for (const DType dtype : {DType::kF32, DType::kF16}) {
    Tensor plane(dtype, {24, 32});
    for (size_t i = 0; i < values.values().size(); ++i) {
      const float value = values.values()[i];
      if (dtype == DType::kF32) {
        plane.as<float>()[i] = value;
      } else {
        plane.as<uint16_t>()[i] = formats::float_to_fp16(value);
      }
    }
    const Tensor there = to_device(plane.view(), device());
    const formats::PackedView weight{
        .format = &formats::bf16_format(), .n = 24, .k = 32, .planes = {there.view()}};
    for (const int64_t n_tokens : {1, 40}) {
      AnyMatrix y = new_output(n_tokens, 24);
      const Matrix part = rounded(x.view().row_range(0, n_tokens));
      linear(activation(part), weight, {}, y);
      expect_product(to_host(y), part, values, bound({}, 32, y.dtype()));
    }
  }
}

// Inputs in FP32, as after a norm, meet a BF16 product rounded.
TEST_P(LinearOnEveryTarget, Fp32InputsAreRoundedToTheComputeType) {
  const Matrix x = random_matrix(70, 64, 23);
  for (const formats::Format* format : formats::all_formats()) {
    const Tensor source = bf16_weight(32, 64, 24);
    const formats::PackedTensor packed = format->encode(source.view(), {});
    const formats::PackedTensor weight = to_device(packed.view(), device());
    for (const int64_t n_tokens : {2, 70}) {
      const ConstMatrixView part = x.view().row_range(0, n_tokens);
      AnyMatrix y = new_output(n_tokens, 32);
      linear(to_device(part, device()), weight.view(), {}, y);
      expect_product(to_host(y), rounded(part), decoded(packed.view()), bound({}, 64, y.dtype()));
    }
  }
}

// x and y are column ranges of wider matrices, aligned and not.
TEST_P(LinearOnEveryTarget, StridedOperands) {
  for (const formats::Format* format : formats::all_formats()) {
    const Tensor source = bf16_weight(32, 64, 5);
    const formats::PackedTensor packed = format->encode(source.view(), {});
    const formats::PackedTensor weight = to_device(packed.view(), device());
    for (const int64_t n_tokens : {4, 20, 80}) {
      const Matrix wide_x = rounded(random_matrix(n_tokens, 96, 6));
      for (const int64_t offset : {7, 16}) {
        const ConstMatrixView x = wide_x.view().col_range(offset, 64);
        const InputRule rule = rule_for(*format, x);
        AnyMatrix wide_y = activation(Matrix(n_tokens, 64));
        const AnyMatrix there = activation(wide_x);
        linear(there.view().col_range(offset, 64), weight.view(), rule,
               wide_y.view().col_range(offset, 32));
        const Matrix found = to_host(wide_y);
        expect_product(found.view().col_range(offset, 32), rounded_by(rule, x),
                       decoded(packed.view()), bound(rule, 64, wide_y.dtype()));
        for (int64_t t = 0; t < n_tokens; ++t) {
          EXPECT_EQ(found.view().row(t)[offset - 1], 0.0f);
          EXPECT_EQ(found.view().row(t)[offset + 32], 0.0f);
        }
      }
    }
  }
}

// The bits of a pass over x before; x itself stays. Of activations and of FP32, aligned and not.
TEST_P(LinearOnEveryTarget, MapsItsInputOnTheWay) {
  for (const formats::Format* format : formats::all_formats()) {
    if (format->input_divisor == 0) continue;
    const Tensor source = bf16_weight(48, 96, 27);
    const formats::PackedTensor weight =
        to_device(format->encode(source.view(), {}).view(), device());
    for (const int64_t n_tokens : {0, 1, 20, 70}) {
      const Matrix wide = rounded(random_matrix(n_tokens, 112, 28));
      const InputRule rule{format, 9 / format->input_divisor};
      for (const int64_t offset : {3, 8}) {
        for (const bool is_fp32 : {false, true}) {
          AnyMatrix x = is_fp32 ? to_device(ConstMatrixView(wide), device()) : activation(wide);
          const AnyMatrixView part = x.view().col_range(offset, 96);
          AnyMatrix found = new_output(n_tokens, 48);
          linear(part, weight.view(), rule, found, formats::InputMap::kSquaredRelu);
          EXPECT_EQ(flat(to_host(x)), flat(wide));
          squared_relu(part);
          AnyMatrix expected = new_output(n_tokens, 48);
          linear(part, weight.view(), rule, expected);
          EXPECT_EQ(bytes_of(found), bytes_of(expected)) << format->name << ", " << n_tokens;
        }
      }
    }
  }
}

// An output that no FP8 product writes makes the codes take another path.
TEST_P(LinearOnEveryTarget, TakesCodesOfItsInput) {
  for (const formats::Format* format : formats::all_formats()) {
    for (const int64_t n : {33, 48}) {
      const Tensor source = bf16_weight(n, 64, 29);
      const formats::PackedTensor weight =
          to_device(format->encode(source.view(), {}).view(), device());
      for (const int64_t n_tokens : {0, 1, 20, 70}) {
        EXPECT_EQ(input_codes(weight.view(), {}, n_tokens), std::nullopt);
        if (format->input_divisor == 0) continue;
        const Matrix values = rounded(random_matrix(n_tokens, 64, 30));
        const AnyMatrix x = activation(values);
        const InputRule rule = rule_for(*format, values);
        const auto codes = input_codes(weight.view(), rule, n_tokens);
        if (!codes.has_value()) continue;  // coded inside the product
        EXPECT_EQ(codes->rule, rule);
        for (const int64_t offset : {7, 16}) {
          AnyMatrix found = activation(Matrix(n_tokens, 80));
          AnyMatrix expected = activation(Matrix(n_tokens, 80));
          linear_of_codes(coded(*codes, x), weight.view(), rule, found.view().col_range(offset, n));
          linear(x, weight.view(), rule, expected.view().col_range(offset, n));
          EXPECT_EQ(bytes_of(found), bytes_of(expected)) << format->name << ", " << n_tokens;
        }
      }
    }
  }
}

TEST_P(LinearOnEveryTarget, RepeatsBitForBit) {
  for (const formats::Format* format : formats::all_formats()) {
    const Tensor source = bf16_weight(320, 2048, 25);
    const formats::PackedTensor weight =
        to_device(format->encode(source.view(), {}).view(), device());
    for (const int64_t n_tokens : {1, 30, 100}) {
      const Matrix x = rounded(random_matrix(n_tokens, 2048, 26));
      const InputRule rule = rule_for(*format, x);
      std::vector<std::vector<float>> found;
      for (int run = 0; run < 3; ++run) {
        AnyMatrix y = new_output(n_tokens, 320);
        linear(activation(x), weight.view(), rule, y);
        found.push_back(flat(to_host(y)));
      }
      EXPECT_TRUE(same_bits(found[0], found[1]) && same_bits(found[0], found[2]));
    }
  }
}

// A packed format's rows, scaled in one place or in two, differ in a last place.
TEST_P(LinearOnEveryTarget, EmbedGivesTheDecodedRows) {
  for (const formats::Format* format : formats::all_formats()) {
    const Tensor source = bf16_weight(37, 64, 13);
    const formats::PackedTensor packed = format->encode(source.view(), {});
    const formats::PackedTensor weight = to_device(packed.view(), device());
    const std::vector<int32_t> ids = {36, 0, 5, 5, 17};
    AnyMatrix y(5, 64, DType::kF32, device());
    Matrix expected(5, 64);
    embed(ids, weight.view(), y);
    ref::embed(ids, packed.view(), expected);
    expect_near(to_host(y), expected, 0, format == &formats::bf16_format() ? 0 : 4 * kRoundoff);
    embed({}, weight.view(), AnyMatrix(0, 64, DType::kF32, device()));
  }
}

VERNIER_ON_EVERY_TARGET(LinearOnEveryTarget);

class LinearOnHost : public testing::Test {
 protected:
  static void SetUpTestSuite() { configure_host_threads(); }
};

TEST_F(LinearOnHost, DoesNotDependOnThreads) {
  for (const int64_t n_tokens : {1, 7, 200}) {
    const Matrix x = random_matrix(n_tokens, 100, 9);
    const Matrix weight = random_matrix(600, 100, 10);
    expect_thread_count_independent([&] {
      Matrix y(n_tokens, 600);
      linear(x, weight, y);
      return flat(y);
    });
  }
}

TEST_F(LinearOnHost, FormatsDoNotDependOnThreads) {
  for (const formats::Format* format : formats::all_formats()) {
    const Tensor source = bf16_weight(600, 64, 14);
    const formats::PackedTensor packed = format->encode(source.view(), {});
    for (const int64_t n_tokens : {3, 200}) {
      const Matrix x = random_matrix(n_tokens, 64, 15);
      expect_thread_count_independent([&] {
        Matrix y(n_tokens, 600);
        linear(x, packed.view(), {}, y);
        return flat(y);
      });
    }
  }
}

using LinearDeathTest = CheckDeathTest;

TEST_F(LinearDeathTest, ChecksShapes) {
  Matrix x(2, 4);
  Matrix weight(3, 5);
  Matrix y(2, 3);
  EXPECT_DEATH(linear(x, weight, y), "weight.cols");
  EXPECT_DEATH(linear(x, formats::PackedView{}, {}, y), "format");
  const Tensor source = bf16_weight(3, 4, 16);
  const formats::PackedTensor packed = formats::bf16_format().encode(source.view(), {});
  EXPECT_DEATH(linear(x, packed.view(), {}, y, formats::InputMap::kSquaredRelu), "kNone");
  EXPECT_DEATH(linear_of_codes(x, packed.view(), {}, y), "expected");
}

using EmbedDeathTest = CheckDeathTest;

TEST_F(EmbedDeathTest, ChecksIds) {
  const Tensor source = bf16_weight(4, 16, 16);
  const formats::PackedTensor packed = formats::bf16_format().encode(source.view(), {});
  Matrix y(1, 16);
  EXPECT_DEATH(embed(std::vector<int32_t>{4}, packed.view(), y), "all_below");
}

}  // namespace
}  // namespace vernier::kernels
