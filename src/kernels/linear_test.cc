#include "kernels/linear.h"

#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {
namespace {

Matrix decoded(const formats::PackedView& weight) {
  Matrix rows(weight.n, weight.k);
  weight.format->decode_rows(weight, 0, weight.n, rows.values().data());
  return rows;
}

Matrix magnitudes(ConstMatrixView matrix) {
  Matrix result(matrix.rows, matrix.cols);
  std::ranges::transform(flat(matrix), result.values().begin(),
                         [](float v) { return std::abs(v); });
  return result;
}

// Each sum of k products within the bound of any order of summation, (k + 1) u sum |x| |w|, of the
// reference.
void expect_product(ConstMatrixView found, ConstMatrixView x, ConstMatrixView weight) {
  Matrix expected(found.rows, found.cols);
  Matrix size(found.rows, found.cols);
  ref::linear(x, weight, expected);
  ref::linear(magnitudes(x), magnitudes(weight), size);
  const double bound = static_cast<double>(x.cols + 1) * kRoundoff;
  for (int64_t t = 0; t < found.rows; ++t) {
    for (int64_t n = 0; n < found.cols; ++n) {
      ASSERT_NEAR(found.row(t)[n], expected.view().row(t)[n], bound * size.view().row(t)[n])
          << "token " << t << ", output " << n;
    }
  }
}

Tensor bf16_weight(int64_t n, int64_t k, uint32_t seed) {
  const Matrix values = random_matrix(n, k, seed, 0.5f);
  Tensor tensor(DType::kBF16, {n, k});
  const auto elems = tensor.as<uint16_t>();
  for (size_t i = 0; i < elems.size(); ++i) {  // rounding is not the point here: truncate
    uint32_t bits;
    std::memcpy(&bits, &values.values()[i], sizeof bits);
    elems[i] = static_cast<uint16_t>(bits >> 16);
  }
  return tensor;
}

class Linear : public testing::Test {
 protected:
  static void SetUpTestSuite() { configure_host_threads(); }
};

TEST_F(Linear, WorkedByHand) {
  const Matrix x = matrix_of(1, 3, {1, 2, 3});
  const Matrix weight = matrix_of(2, 3, {1, 0, -1, 2, 2, 2});
  Matrix y = matrix_of(1, 2, {99, 99});  // overwritten
  linear(x, weight, y);
  EXPECT_THAT(y.values(), testing::ElementsAre(-2, 12));
}

TEST_F(Linear, AgreesWithReference) {
  for (const int64_t n_tokens : {0, 1, 2, 7, 64, 65, 300}) {
    for (const int64_t n : {1, 3, 130, 300}) {
      for (const int64_t k : {1, 17, 64, 200}) {
        const Matrix x = random_matrix(n_tokens, k, 1);
        const Matrix weight = random_matrix(n, k, 2);
        Matrix y(n_tokens, n);
        linear(x, weight, y);
        expect_product(y, x, weight);
      }
    }
  }
}

// Enough tokens and columns for several tiles in both directions, with remainders.
TEST_F(Linear, AgreesWithReferenceOverManyTiles) {
  const Matrix x = random_matrix(1100, 20, 3);
  const Matrix weight = random_matrix(530, 20, 4);
  Matrix y(1100, 530);
  linear(x, weight, y);
  expect_product(y, x, weight);
}

TEST_F(Linear, StridedOperands) {
  const Matrix wide_x = random_matrix(20, 60, 5);
  const Matrix weight = random_matrix(30, 50, 6);
  const ConstMatrixView x = wide_x.view().col_range(7, 50);
  Matrix wide_y(20, 40);
  linear(x, weight, wide_y.view().col_range(5, 30));
  expect_product(wide_y.view().col_range(5, 30), x, weight);
  for (int64_t t = 0; t < 20; ++t) EXPECT_EQ(wide_y.view().row(t)[4], 0.0f);
}

TEST_F(Linear, DoesNotDependOnThreads) {
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

using LinearDeathTest = CheckDeathTest;

TEST_F(LinearDeathTest, ChecksShapes) {
  Matrix x(2, 4);
  Matrix weight(3, 5);
  Matrix y(2, 3);
  EXPECT_DEATH(linear(x, weight, y), "weight.cols");
  EXPECT_DEATH(linear(x, formats::PackedView{}, y), "format");
}

// Every registered format, against its own decoding and a product in double.
class LinearFormat : public testing::TestWithParam<const formats::Format*> {
 protected:
  static void SetUpTestSuite() { configure_host_threads(); }
};

TEST_P(LinearFormat, AgreesWithReference) {
  const formats::Format& format = *GetParam();
  for (const int64_t n_tokens : {0, 1, 6, 65}) {
    for (const int64_t n : {1, 19, 270}) {
      for (const int64_t k : {16, 48, 160}) {
        const Tensor source = bf16_weight(n, k, 11);
        const formats::PackedTensor packed = format.encode(source.view(), {});
        const Matrix x = random_matrix(n_tokens, k, 12);
        Matrix y(n_tokens, n);
        linear(x, packed.view(), y);
        expect_product(y, x, decoded(packed.view()));
      }
    }
  }
}

TEST_P(LinearFormat, EmbedEqualsTheDecodedRows) {
  const formats::Format& format = *GetParam();
  const Tensor source = bf16_weight(37, 64, 13);
  const formats::PackedTensor packed = format.encode(source.view(), {});
  const std::vector<int32_t> ids = {36, 0, 5, 5, 17};
  Matrix y(5, 64);
  Matrix expected(5, 64);
  embed(ids, packed.view(), y);
  ref::embed(ids, packed.view(), expected);
  EXPECT_EQ(flat(y), flat(expected));
  embed({}, packed.view(), Matrix(0, 64));
}

TEST_P(LinearFormat, DoesNotDependOnThreads) {
  const formats::Format& format = *GetParam();
  const Tensor source = bf16_weight(600, 64, 14);
  const formats::PackedTensor packed = format.encode(source.view(), {});
  for (const int64_t n_tokens : {3, 200}) {
    const Matrix x = random_matrix(n_tokens, 64, 15);
    expect_thread_count_independent([&] {
      Matrix y(n_tokens, 600);
      linear(x, packed.view(), y);
      return flat(y);
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, LinearFormat,
                         testing::ValuesIn(formats::all_formats().begin(),
                                           formats::all_formats().end()),
                         [](const auto& info) { return std::string(info.param->name); });

using EmbedDeathTest = CheckDeathTest;

TEST_F(EmbedDeathTest, ChecksIds) {
  const Tensor source = bf16_weight(4, 16, 16);
  const formats::PackedTensor packed = formats::bf16_format().encode(source.view(), {});
  Matrix y(1, 16);
  EXPECT_DEATH(embed(std::vector<int32_t>{4}, packed.view(), y), "all_below");
}

}  // namespace
}  // namespace vernier::kernels
