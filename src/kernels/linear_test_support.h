// What the tests of linear and grouped_linear share: weights, rules and the bound of a product.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "formats/format.h"
#include "kernels/linear.h"
#include "kernels/reference.h"
#include "kernels/test_support.h"

namespace vernier::kernels {

inline Matrix decoded(const formats::PackedView& weight) {
  Matrix rows(weight.n, weight.k);
  weight.format->decode_rows(weight, 0, weight.n, rows.values().data());
  return rows;
}

inline Matrix magnitudes(ConstMatrixView matrix) {
  Matrix result(matrix.rows, matrix.cols);
  std::ranges::transform(flat(matrix), result.values().begin(),
                         [](float v) { return std::abs(v); });
  return result;
}

inline Tensor bf16_weight(int64_t n, int64_t k, uint32_t seed) {
  const Matrix values = random_matrix(n, k, seed, 0.5f);
  Tensor tensor(DType::kBF16, {n, k});
  std::ranges::transform(values.values(), tensor.as<uint16_t>().begin(), formats::float_to_bf16);
  return tensor;
}

// A copy there of the planes that a device wants there.
inline formats::PackedTensor to_device(const formats::PackedView& packed, Device* device) {
  formats::PackedTensor copy{.format = packed.format, .n = packed.n, .k = packed.k, .planes = {}};
  for (const formats::PlaneSpec& plane : packed.format->planes) {
    const bool stays = plane.role == formats::PlaneRole::kGlobalScale;
    copy.plane(plane.role) = vernier::to_device(packed.plane(plane.role), stays ? nullptr : device);
  }
  return copy;
}

// The format's own rule for these inputs; none where it has none.
inline InputRule rule_for(const formats::Format& format, ConstMatrixView x) {
  if (format.input_divisor == 0) return {};
  float amax = 0;
  for (const float value : flat(x)) amax = std::max(amax, std::abs(value));
  return {&format, amax > 0 ? amax / format.input_divisor : 1.0f};
}

inline Matrix rounded_by(const InputRule& rule, ConstMatrixView x) {
  Matrix copy(x.rows, x.cols);
  copy_matrix(x, copy);
  if (rule.format != nullptr) rule.format->round_input(copy, rule.scale);
  return copy;
}

// A copy of x in the codes of a rule, as linear() makes one.
inline AnyMatrix coded(const InputCodes& codes, ConstAnyMatrixView x) {
  AnyMatrix copy(x.rows, x.cols, codes.dtype, x.device);
  if (x.device != nullptr) {
    codes.rule.format->device_codec->encode_input(x, codes.rule.scale, copy);
  } else {
    copy_matrix(x, copy);
    codes.rule.format->round_input(copy.view().host(), codes.rule.scale);
  }
  return copy;
}

// The elements as they are stored.
inline std::vector<std::byte> bytes_of(ConstAnyMatrixView matrix) {
  AnyMatrix copy(matrix.rows, matrix.cols, matrix.dtype, nullptr);
  copy_matrix(matrix, copy);
  const auto* const first = static_cast<const std::byte*>(copy.view().data);
  return {first, first + copy.size_bytes()};
}

// How far a product may be from the reference's: `of_magnitudes` times sum |x| |w|, then one
// rounding of the output.
struct ProductBound {
  double of_magnitudes;
  double roundoff;
};

// k products in FP32, in any order of summation: (k + 1) u. Decoded weights, rounded inputs and the
// scales' product, which the reference and a device round at different places, add a unit each.
inline double fp32_sums(int64_t k) { return static_cast<double>(k + 5) * kRoundoff; }
// BF16 tensor cores multiply exactly and add in FP32, but cut sums off instead of rounding them:
// twice that.
inline double bf16_sums(int64_t k) { return 2 * fp32_sums(k); }
// FP8 tensor cores cut each product and the sum so far off at 2^-13 of the largest of the 32 that
// they add at once. With the random values here no product is beyond an eighth of sum |x| |w| where
// k is 32 or more; below that it is one step, whose sum is the result.
inline double fp8_sums(int64_t k) {
  return bf16_sums(k) + static_cast<double>(k + 32) * (k < 32 ? 0x1p-13 : 0x1p-16);
}

// `sizes`: the sums of magnitudes.
inline void expect_sums(ConstMatrixView found, ConstMatrixView expected, ConstMatrixView sizes,
                        ProductBound bound) {
  ASSERT_EQ(found.rows, expected.rows);
  ASSERT_EQ(found.cols, expected.cols);
  for (int64_t row = 0; row < found.rows; ++row) {
    for (int64_t col = 0; col < found.cols; ++col) {
      const double want = expected.row(row)[col];
      const double sum = bound.of_magnitudes * sizes.row(row)[col];
      ASSERT_NEAR(found.row(row)[col], want, sum + bound.roundoff * (std::abs(want) + sum))
          << "row " << row << ", column " << col;
    }
  }
}

inline void expect_product(ConstMatrixView found, ConstMatrixView x, ConstMatrixView weight,
                           ProductBound bound) {
  Matrix expected(found.rows, found.cols);
  Matrix sizes(found.rows, found.cols);
  ref::linear(x, weight, expected);
  ref::linear(magnitudes(x), magnitudes(weight), sizes);
  expect_sums(found, expected, sizes, bound);
}

// g_y W and what was there plus g_y^T x, against the references.
inline void expect_input_gradient(ConstMatrixView found, ConstMatrixView g_y,
                                  ConstMatrixView weight, ProductBound bound) {
  Matrix expected(found.rows, found.cols);
  Matrix sizes(found.rows, found.cols);
  ref::linear_input_gradient(g_y, weight, expected);
  ref::linear_input_gradient(magnitudes(g_y), magnitudes(weight), sizes);
  expect_sums(found, expected, sizes, bound);
}

inline void expect_weight_gradient(ConstMatrixView found, ConstMatrixView before,
                                   ConstMatrixView g_y, ConstMatrixView x, ProductBound bound) {
  Matrix expected(found.rows, found.cols);
  copy_matrix(before, expected);
  Matrix sizes = magnitudes(before);
  ref::linear_weight_gradient(g_y, x, expected);
  ref::linear_weight_gradient(magnitudes(g_y), magnitudes(x), sizes);
  expect_sums(found, expected, sizes, bound);
}

// The bound for a product of this format there, with an output of this type.
inline ProductBound product_bound(bool is_bf16, bool is_fp8, int64_t k, DType y_dtype) {
  return {.of_magnitudes = is_fp8    ? fp8_sums(k)
                           : is_bf16 ? bf16_sums(k)
                                     : fp32_sums(k),
          .roundoff = y_dtype == DType::kBF16 ? 0x1p-8 : kRoundoff};
}

}  // namespace vernier::kernels
