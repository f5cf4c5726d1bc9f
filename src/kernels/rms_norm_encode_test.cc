#include "kernels/rms_norm_encode.h"

#include <limits>

#include "kernels/linear_test_support.h"
#include "kernels/rms_norm.h"

namespace vernier::kernels {
namespace {

class RmsNormEncodeOnEveryTarget : public OnEveryTarget {
 protected:
  static std::vector<const formats::Format*> formats_with_rules() {
    std::vector<const formats::Format*> formats;
    for (const formats::Format* format : formats::all_formats()) {
      if (format->input_divisor > 0) formats.push_back(format);
    }
    return formats;
  }
  // The types of codes that linears there may ask for.
  std::vector<DType> code_types(const formats::Format& format) const {
    if (device() == nullptr || !is_bf16()) return {DType::kF32};
    const auto own = format.device_codec->input_dtype;
    return own ? std::vector<DType>{DType::kBF16, *own} : std::vector<DType>{DType::kBF16};
  }

  // The bytes of a norm and a quantizer, one after the other.
  void expect_two_passes(ConstAnyMatrixView x, const std::vector<float>& weight,
                         const InputRule& rule) const {
    const Vector<float> weight_there = vector(weight);
    AnyMatrix normed = new_output(x.rows, x.cols);
    rms_norm(x, weight_there, 1e-5f, normed);
    for (const DType dtype : code_types(*rule.format)) {
      AnyMatrix codes(x.rows, x.cols, dtype, device());
      rms_norm_encode(x, weight_there, 1e-5f, rule, codes);
      ASSERT_EQ(bytes_of(codes), bytes_of(coded({rule, dtype}, normed)))
          << rule.format->name << ", " << x.rows << " x " << x.cols << ", scale " << rule.scale;
    }
  }
};
VERNIER_ON_EVERY_TARGET(RmsNormEncodeOnEveryTarget);

TEST_P(RmsNormEncodeOnEveryTarget, WorkedByHand) {
  // The root mean square is 2; a scale of 1/2 makes 1 the code 2 and 0.5 the code 1.
  Matrix x(1, 16);
  for (size_t i = 0; i < 16; ++i) x.values()[i] = i % 2 == 0 ? 2.0f : -2.0f;
  std::vector<float> weight(16, 1.0f);
  weight[3] = 0.5f;
  AnyMatrix codes = new_output(1, 16);
  rms_norm_encode(to_device(ConstMatrixView(x), device()), vector(weight), 0,
                  {formats::find_format("fp8_e4m3"), 0.5f}, codes);
  const float unit = device() == nullptr ? 0.5f : 1.0f;  // the host's are values
  const Matrix found = to_host(codes);
  EXPECT_EQ(found.values()[0], 2 * unit);
  EXPECT_EQ(found.values()[1], -2 * unit);
  EXPECT_EQ(found.values()[3], -1 * unit);
}

// Widths of each way a device takes a row: by a warp, by blocks of two sizes, by single elements.
TEST_P(RmsNormEncodeOnEveryTarget, GivesTheBytesOfTwoPasses) {
  for (const formats::Format* format : formats_with_rules()) {
    for (const int64_t width : {1, 8, 31, 16, 48, 240, 1000, 1008, 1024, 2688, 3136, 8192, 8208}) {
      if (width % format->k_multiple != 0) continue;
      const auto weight = random_vector(width, 2);
      for (const int64_t n_tokens : {0, 1, 5, 67}) {
        const Matrix x = random_matrix(n_tokens, width, 1, 3.0f);
        ASSERT_NO_FATAL_FAILURE(expect_two_passes(to_device(ConstMatrixView(x), device()), weight,
                                                  {format, 4.0f / format->input_divisor}));
      }
    }
  }
}

// Scales by which a quotient needs a true division, and at which everything saturates or vanishes.
TEST_P(RmsNormEncodeOnEveryTarget, TakesAnyScale) {
  for (const formats::Format* format : formats_with_rules()) {
    const AnyMatrix x = to_device(random_matrix(20, 512, 3), device());
    for (const float scale : {0x1p-70f, 0x1p70f, 1e-4f, 0.0123f, 1.0f}) {
      expect_two_passes(x, random_vector(512, 4), {format, scale});
    }
  }
}

// Zeros of both signs, infinities, NaNs, and channels that are far apart.
TEST_P(RmsNormEncodeOnEveryTarget, TakesSpecialValues) {
  Matrix x = random_matrix(6, 64, 5);
  for (float& value : x.view().row(0)) value = std::copysign(0.0f, value);
  x.view().row(1)[7] = std::numeric_limits<float>::infinity();
  x.view().row(2)[40] = std::numeric_limits<float>::quiet_NaN();
  for (float& value : x.view().row(3)) value *= 1e-30f;
  x.view().row(4)[20] = 1e6f;
  std::vector<float> weight = random_vector(64, 6);
  weight[9] = 1e20f;
  weight[33] = 0;
  for (const formats::Format* format : formats_with_rules()) {
    expect_two_passes(to_device(ConstMatrixView(x), device()), weight,
                      {format, 2.0f / format->input_divisor});
  }
}

TEST_P(RmsNormEncodeOnEveryTarget, TakesStridedRows) {
  for (const formats::Format* format : formats_with_rules()) {
    const AnyMatrix wide = to_device(random_matrix(9, 120, 7), device());
    for (const int64_t first : {3, 8}) {
      expect_two_passes(wide.view().col_range(first, 96), random_vector(96, 8),
                        {format, 4.0f / format->input_divisor});
    }
  }
}

TEST_P(RmsNormEncodeOnEveryTarget, WithoutARuleItIsTheNorm) {
  const AnyMatrix x = to_device(random_matrix(7, 40, 9), device());
  const Vector<float> weight = vector(random_vector(40, 10));
  AnyMatrix found = new_output(7, 40);
  AnyMatrix expected = new_output(7, 40);
  rms_norm_encode(x, weight, 1e-5f, {}, found);
  rms_norm(x, weight, 1e-5f, expected);
  EXPECT_EQ(bytes_of(found), bytes_of(expected));
}

// A linear's own choice of codes, for few and many tokens.
TEST_P(RmsNormEncodeOnEveryTarget, WritesWhatLinearsTake) {
  for (const formats::Format* format : formats_with_rules()) {
    const Tensor source = bf16_weight(48, 64, 11);
    const formats::PackedTensor weight =
        to_device(format->encode(source.view(), {}).view(), device());
    const Vector<float> norm = vector(random_vector(64, 12));
    const InputRule rule{format, 5.0f / format->input_divisor};
    for (const int64_t n_tokens : {1, 30, 100}) {
      const auto codes = input_codes(weight.view(), rule, n_tokens);
      if (!codes.has_value()) continue;  // coded inside the product
      const AnyMatrix x = to_device(random_matrix(n_tokens, 64, 13), device());
      AnyMatrix u(n_tokens, 64, codes->dtype, device());
      rms_norm_encode(x, norm, 1e-5f, rule, u);
      AnyMatrix found = new_output(n_tokens, 48);
      linear_of_codes(u, weight.view(), rule, found);
      AnyMatrix normed = new_output(n_tokens, 64);
      rms_norm(x, norm, 1e-5f, normed);
      AnyMatrix expected = new_output(n_tokens, 48);
      linear(normed, weight.view(), rule, expected);
      EXPECT_EQ(bytes_of(found), bytes_of(expected)) << format->name << ", " << n_tokens;
    }
  }
}

using RmsNormEncodeDeathTest = CheckDeathTest;

TEST_F(RmsNormEncodeDeathTest, ChecksShapes) {
  Matrix x(2, 24);
  const InputRule nvfp4{formats::find_format("nvfp4"), 1.0f};
  EXPECT_DEATH(rms_norm_encode(x, std::vector<float>(23), 0, nvfp4, x), "weight.size == x.cols");
  EXPECT_DEATH(rms_norm_encode(x, std::vector<float>(24), 0, nvfp4, x), "k_multiple");
}

}  // namespace
}  // namespace vernier::kernels
