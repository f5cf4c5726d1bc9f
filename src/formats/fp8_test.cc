// FP8 per tensor: worked bytes, and the bulk code against the definitions.
#include "formats/fp8.h"

#include <gmock/gmock.h>

#include <cmath>

#include "formats/format.h"
#include "formats/fp8_cpu.h"
#include "formats/rows.h"
#include "formats/test_weights.h"

namespace vernier::formats {
namespace {

using testing::ElementsAreArray;

std::vector<uint8_t> codes_of(const PackedTensor& packed) {
  const auto codes = packed.plane(PlaneRole::kCodes).as<uint8_t>();
  return {codes.begin(), codes.end()};
}
float scale_of(const PackedTensor& packed) {
  return packed.plane(PlaneRole::kGlobalScale).as<float>()[0];
}

// docs/formats.md, "FP8, worked". Bytes from PyTorch.
TEST(Fp8, WorkedExample) {
  const Tensor w = bf16_tensor(
      1, 8,
      std::vector<float>{0.0123291015625f, -0.0869140625f, 0.25f, -0.3125f, 0.00099945068359375f,
                         0.169921875f, -0.045654296875f, 0.30078125f});
  const PackedTensor cpu =
      kFp8E4m3Format.encode(w.view(), {.rule = {}, .arithmetic = Arithmetic::kCpu});
  EXPECT_EQ(float_bits(scale_of(cpu)), 0x3a36db6eu);
  EXPECT_THAT(codes_of(cpu), ElementsAreArray({0x59, 0xf0, 0x7b, 0xfe, 0x3b, 0x77, 0xe8, 0x7e}));
  const PackedTensor cuda = kFp8E4m3Format.encode(w.view(), {});
  EXPECT_THAT(codes_of(cuda), ElementsAreArray({0x59, 0xf0, 0x7b, 0xfe, 0x3b, 0x77, 0xe8, 0x7d}));
}

TEST(Fp8, ZerosGetTheScaleOne) {
  const Tensor w = bf16_tensor(2, 3, std::vector<float>(6, 0.0f));
  for (const Arithmetic arithmetic : {Arithmetic::kCpu, Arithmetic::kCuda}) {
    const PackedTensor packed =
        kFp8E4m3Format.encode(w.view(), {.rule = {}, .arithmetic = arithmetic});
    EXPECT_EQ(scale_of(packed), 1.0f);
    EXPECT_THAT(codes_of(packed), testing::Each(0));
  }
}

TEST(Fp8, TinyWeightsKeepANormalScale) {
  const Tensor w = bf16_tensor(1, 2, std::vector<uint16_t>{0x0001, 0x8003});
  const PackedTensor packed = kFp8E4m3Format.encode(w.view(), {});
  EXPECT_GE(scale_of(packed), 0x1p-126f);
  for (const uint8_t code : codes_of(packed)) EXPECT_FALSE(std::isnan(e4m3_to_float(code)));
}

TEST(Fp8, BulkPackingIsTheDefinitionForEveryBf16) {
  const std::vector<uint16_t> w = all_finite_bf16();
  std::vector<float> divisors = {1.0f, 0x1p-126f, 3.0e38f / 448, 0.75f, 0.00069754466f};
  // Quotients a place above and below every BF16 number.
  for (const float toward : {0.0f, 2.0f}) divisors.push_back(std::nextafter(1.0f, toward));
  for (uint64_t i = 0; i < 12; ++i) {
    divisors.push_back(static_cast<float>(std::exp2(-20 * random_uniform(7, 0, i))));
    divisors.push_back(round_to_bf16(divisors.back()));
  }
  for (const float divisor : divisors) {
    std::vector<uint8_t> expected;
    for (const uint16_t code : w) expected.push_back(fp8_weight_code(bf16_to_float(code), divisor));
    for_each_instruction_set([&] {
      std::vector<uint8_t> codes(w.size() - 1);  // odd: the remainder is taken as well
      fp8_pack(w.data(), static_cast<int64_t>(codes.size()), divisor, codes.data());
      EXPECT_TRUE(std::equal(codes.begin(), codes.end(), expected.begin())) << divisor;
    });
  }
}

TEST(Fp8, BulkUnpackingIsTheDefinitionForEveryCode) {
  std::vector<uint8_t> codes;
  for (int code = 0; code < 256; ++code) codes.push_back(static_cast<uint8_t>(code));
  for_each_instruction_set([&] {
    std::vector<float> out(255);
    fp8_unpack(codes.data(), 255, 0.0123f, out.data());
    for (size_t i = 0; i < out.size(); ++i) {
      const float expected = e4m3_to_float(codes[i]) * 0.0123f;
      EXPECT_TRUE(out[i] == expected || (std::isnan(out[i]) && std::isnan(expected))) << i;
    }
  });
}

TEST(Fp8, RoundsInputsAsDefined) {
  std::vector<float> x = gaussian_values(1003, 3, 1.0);
  x.insert(x.end(), {0.0f, -0.0f, 1e30f, -1e30f, std::nanf(""), HUGE_VALF, 1e-40f});
  constexpr float kScale = 0.0037f;
  for_each_instruction_set([&] {
    std::vector<float> rounded = x;
    fp8_round_inputs(rounded.data(), static_cast<int64_t>(x.size()), kScale);
    for (size_t i = 0; i < x.size(); ++i) {
      const float expected = fp8_round_input(x[i], kScale);
      EXPECT_TRUE(rounded[i] == expected || (std::isnan(rounded[i]) && std::isnan(expected)))
          << x[i];
    }
  });
}

// The same sums whatever the vector width, and those of the definition up to the order of
// additions.
TEST(Fp8, LossIsThatOfTheDefinition) {
  std::vector<uint16_t> w;
  for (const float value : gaussian_values(1000, 5)) w.push_back(float_to_bf16(value));
  const float up = fp8_candidate_multiplier(0.05f);
  double expected = 0;
  for (const uint16_t code : w) {
    const double error = bf16_to_float(code) - fp8_fake_quant(bf16_to_float(code), up);
    expected += error * error;
  }
  std::vector<double> losses;
  for_each_instruction_set(
      [&] { losses.push_back(fp8_loss(w.data(), static_cast<int64_t>(w.size()), up)); });
  EXPECT_THAT(losses, testing::Each(losses[0]));
  EXPECT_NEAR(losses[0], expected, expected * 1000 * 0x1p-52);
}

TEST(Fp8, MultiplierSearchTakesTheFirstOfTheLeast) {
  // One outlier among equal weights: shrinking amax would saturate it, so some multiple fits best.
  std::vector<float> values(64, 0.011f);
  values[5] = 0.5f;
  const Tensor w = bf16_tensor(4, 16, values);
  const ScaleRule rule = {.method = ScaleMethod::kMultipliers};
  float best_amax = 0;
  double best_loss = HUGE_VAL;
  for (const float multiplier : multiplier_grid(rule)) {
    const float up = fp8_candidate_multiplier(0.5f * multiplier);
    double loss = 0;
    for (const float value : values) {
      const double error = round_to_bf16(value) - fp8_fake_quant(round_to_bf16(value), up);
      loss += error * error;
    }
    if (loss < best_loss * (1 - 1e-12)) {
      best_loss = loss;
      best_amax = 0.5f * multiplier;
    }
  }
  const PackedTensor packed = kFp8E4m3Format.encode(w.view(), {.rule = rule});
  EXPECT_EQ(scale_of(packed), scale_from_amax(round_to_bf16(best_amax), 448, Arithmetic::kCuda));
}

// A chosen amax below the weight's own saturates; the cast of PyTorch would give NaN there.
TEST(Fp8, SaturatesBeyondTheChosenAmax) {
  EXPECT_EQ(fp8_weight_code(1.0f, 0.5f / 448), 0x7E);
  EXPECT_EQ(fp8_weight_code(-1.0f, 0.5f / 448), 0xFE);
}

TEST(Fp8, KeepsAmaxUnderTheSweep) {
  const Tensor w = gaussian_tensor(3, 17, 1);
  const PackedTensor max = kFp8E4m3Format.encode(w.view(), {});
  const PackedTensor sweep = kFp8E4m3Format.encode(
      w.view(), {.rule = {.method = ScaleMethod::kFp8Sweep, .is_static = true}});
  EXPECT_EQ(codes_of(max), codes_of(sweep));
  EXPECT_EQ(scale_of(max), scale_of(sweep));
}

}  // namespace
}  // namespace vernier::formats
