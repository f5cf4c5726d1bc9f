// NVFP4: worked blocks, scale rules, and the bulk code against the definitions.
#include "formats/nvfp4.h"

#include <gmock/gmock.h>

#include <cmath>

#include "base/error.h"
#include "formats/format.h"
#include "formats/nvfp4_cpu.h"
#include "formats/rows.h"
#include "formats/test_weights.h"

namespace vernier::formats {
namespace {

using testing::Each;
using testing::ElementsAreArray;
using testing::HasSubstr;

constexpr Arithmetic kBoth[] = {Arithmetic::kCpu, Arithmetic::kCuda};
constexpr ScaleRule kStaticMax = {.is_static = true};
constexpr ScaleRule kSweep = {.method = ScaleMethod::kFp8Sweep, .is_static = true};
constexpr ScaleRule kMultipliers = {.method = ScaleMethod::kMultipliers, .is_static = true};

std::vector<uint8_t> bytes_of(const PackedTensor& packed, PlaneRole role) {
  const auto bytes = packed.plane(role).as<uint8_t>();
  return {bytes.begin(), bytes.end()};
}
uint8_t block_scale_of(const PackedTensor& packed) {
  return packed.plane(PlaneRole::kBlockScales).as<uint8_t>()[0];
}
uint32_t global_bits_of(const PackedTensor& packed) {
  return float_bits(packed.plane(PlaneRole::kGlobalScale).as<float>()[0]);
}
std::vector<uint8_t> codes_of(const PackedTensor& packed) {
  return bytes_of(packed, PlaneRole::kCodes);
}

// docs/formats.md, "Worked blocks". Bytes from PyTorch.
Tensor block_a() {
  std::vector<float> values;
  for (const int k : {8, -4, 2, -1, 0, 3, -12, 24, 1, -2, 5, -7, 20, -20, 9, -24}) {
    values.push_back(static_cast<float>(k) / 64);
  }
  return bf16_tensor(1, 16, values);
}
Tensor block_b() {
  return bf16_tensor(
      1, 16,
      std::vector<uint16_t>{0xbba8, 0x3c28, 0xbb94, 0xbbce, 0xbc98, 0xbb8c, 0x3cb6, 0x3c0b, 0x3caa,
                            0x3ba3, 0x3c01, 0x3b73, 0xbd08, 0x3c8c, 0x3c26, 0x3c23});
}
constexpr float kAmaxB = 0.2373046875f;
constexpr uint8_t kCodesB[] = {0x4a, 0xaa, 0xad, 0x36, 0x26, 0x13, 0x5f, 0x44};

TEST(Nvfp4, WorkedBlockA) {
  for (const Arithmetic arithmetic : kBoth) {
    const PackedTensor packed = kNvfp4Format.encode(
        block_a().view(), {.rule = {}, .arithmetic = arithmetic, .global_amax = 1.5f});
    EXPECT_EQ(global_bits_of(packed), 0x3a124925u);
    EXPECT_EQ(block_scale_of(packed), 0x6E);
    EXPECT_THAT(codes_of(packed),
                ElementsAreArray({0xa4, 0x81, 0x20, 0x7d, 0x90, 0xc2, 0xe6, 0xf4}));
  }
}

TEST(Nvfp4, WorkedBlockB) {
  for (const ScaleRule& rule : {ScaleRule{}, kStaticMax, kSweep}) {
    for (const Arithmetic arithmetic : kBoth) {
      const PackedTensor packed = kNvfp4Format.encode(
          block_b().view(), {.rule = rule, .arithmetic = arithmetic, .global_amax = kAmaxB});
      EXPECT_EQ(global_bits_of(packed), arithmetic == Arithmetic::kCpu ? 0x38b92492u : 0x38b92493u);
      EXPECT_EQ(block_scale_of(packed), 0x68);
      EXPECT_THAT(codes_of(packed), ElementsAreArray(kCodesB));
    }
  }
}

TEST(Nvfp4, WorkedBlockBFourOverSix) {
  const PackedTensor packed = kNvfp4Format.encode(
      block_b().view(),
      {.rule = kFourOverSix, .arithmetic = Arithmetic::kCpu, .global_amax = kAmaxB});
  EXPECT_EQ(global_bits_of(packed), 0x39220000u);
  EXPECT_EQ(block_scale_of(packed), 0x61);
  EXPECT_THAT(codes_of(packed), ElementsAreArray(kCodesB));
  // The alternative that lost: amax / 4 instead of amax / 6.
  const uint8_t other =
      nvfp4_static_block_scale(0.033203125f * 1.5f, kAmaxB, 256, Arithmetic::kCpu);
  EXPECT_EQ(other, 0x65);
  std::vector<uint8_t> codes(8);
  nvfp4_pack(block_b().as<uint16_t>().data(), 1, &other, bits_float(0x39220000u), codes.data());
  EXPECT_THAT(codes, ElementsAreArray({0x39, 0xa9, 0x9c, 0x25, 0x15, 0x12, 0x4e, 0x23}));
}

// Weights whose largest magnitude is better kept as 4 than as 6.
TEST(Nvfp4, FourOverSixTakesFour) {
  std::vector<float> values(16, 0.75f);
  values[3] = 1.0f;  // 0.75 is 3 of 4 exactly, but 4.5 of 6
  const PackedTensor packed =
      kNvfp4Format.encode(bf16_tensor(1, 16, values).view(), {.rule = kFourOverSix});
  EXPECT_EQ(block_scale_of(packed), float_to_e4m3(384.0f));
  EXPECT_THAT(codes_of(packed), ElementsAreArray({0x55, 0x65, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55}));
}

uint8_t zero_block_scale(const ScaleRule& rule, float global_amax, Arithmetic arithmetic) {
  const Tensor zeros = bf16_tensor(1, 16, std::vector<float>(16, 0.0f));
  const PackedTensor packed = kNvfp4Format.encode(
      zeros.view(), {.rule = rule, .arithmetic = arithmetic, .global_amax = global_amax});
  EXPECT_THAT(codes_of(packed), Each(0));
  return block_scale_of(packed);
}

TEST(Nvfp4, ZeroBlocks) {
  for (const Arithmetic arithmetic : kBoth) {
    EXPECT_EQ(zero_block_scale({}, 1.5f, arithmetic), 0x38);
    EXPECT_EQ(zero_block_scale({}, 12.0f, arithmetic), 0x38);
    EXPECT_EQ(zero_block_scale(kStaticMax, 1.5f, arithmetic), 0x7E);
    EXPECT_EQ(zero_block_scale(kStaticMax, 6.0f, arithmetic), 0x7E);
    EXPECT_EQ(zero_block_scale(kStaticMax, 12.0f, arithmetic), 0x76);
    EXPECT_EQ(zero_block_scale(kMultipliers, 1.5f, arithmetic), 0x7E);
    EXPECT_EQ(zero_block_scale(kSweep, 1.5f, arithmetic), 0x01);
  }
}

TEST(Nvfp4, AWeightOfZerosGetsTheGlobalScaleOne) {
  const Tensor zeros = bf16_tensor(2, 32, std::vector<float>(64, 0.0f));
  for (const ScaleRule& rule : {ScaleRule{}, kStaticMax, kSweep, kMultipliers, kFourOverSix}) {
    const PackedTensor packed = kNvfp4Format.encode(zeros.view(), {.rule = rule});
    EXPECT_EQ(global_bits_of(packed), float_bits(1.0f));
    EXPECT_THAT(codes_of(packed), Each(0));
  }
}

TEST(Nvfp4, TheBlockOfTheLargestWeightGetsTheLargestScale) {
  for (uint64_t i = 0; i < 1000; ++i) {
    const float ga =
        round_to_bf16(static_cast<float>(std::exp2(20 * random_uniform(9, 0, i) - 15)));
    for (const Arithmetic arithmetic : kBoth) {
      const float s2 = nvfp4_global_scale(ga, 448, arithmetic);
      EXPECT_EQ(nvfp4_dynamic_block_scale(ga, s2), 0x7E);
      EXPECT_EQ(nvfp4_static_block_scale(ga, ga, 448, arithmetic), 0x7E);
      EXPECT_EQ(nvfp4_static_block_scale(ga, ga, 256, arithmetic), float_to_e4m3(256.0f));
    }
  }
}

// The sweep stores its winner; exporting the amax that stands for it would give the same byte.
TEST(Nvfp4, SweepCodesSurviveTheStaticPath) {
  for (uint64_t i = 0; i < 300; ++i) {
    const auto ga = static_cast<float>(std::exp2(24 * random_uniform(11, 0, i) - 18));
    for (const Arithmetic arithmetic : kBoth) {
      for (int v = 1; v <= kE4m3MaxCode; ++v) {
        const auto code = static_cast<uint8_t>(v);
        const float c = scale_from_amax(e4m3_to_float(code), kE4m3Max, arithmetic);
        ASSERT_EQ(nvfp4_static_block_scale(ga * c, ga, kE4m3Max, arithmetic), code) << ga;
        if (arithmetic == Arithmetic::kCpu) {
          ASSERT_EQ(nvfp4_candidate_scale(ga * c, ga, kE4m3Max, arithmetic),
                    nvfp4_sweep_scale(code, ga, arithmetic));
        }
      }
    }
  }
}

TEST(Nvfp4, SweepKeepsTheInputDivisorAndFourOverSixToo) {
  EXPECT_EQ(kNvfp4Format.input_divisor, 2688.0f);
  EXPECT_EQ(nvfp4_peak(true) * 6, 1536.0f);
}

TEST(Nvfp4, MinusZeroHasCodeEight) {
  // -1/64 over a unit of 0.0625 rounds to zero from below; an exact -0.0 does not.
  EXPECT_EQ(float_to_e2m1(-0.015625f / 0.0625f), 8);
  EXPECT_EQ(float_to_e2m1(-0.0f / 0.0625f), 0);
}

std::vector<uint8_t> packed_by_definition(const std::vector<uint16_t>& w, float unit) {
  std::vector<uint8_t> packed;
  for (size_t i = 0; i < w.size(); i += 2) {
    const uint8_t low = float_to_e2m1(bf16_to_float(w[i]) / unit);
    const uint8_t high = float_to_e2m1(bf16_to_float(w[i + 1]) / unit);
    packed.push_back(static_cast<uint8_t>(high << 4 | low));
  }
  return packed;
}

TEST(Nvfp4, BulkPackingIsTheDefinitionForEveryBf16) {
  std::vector<uint16_t> w = all_finite_bf16();
  const auto n_blocks = static_cast<int64_t>(w.size()) / kNvfp4Block;
  // Global scales with many exact ties, none, and the extremes.
  const float global_scales[] = {0x1p-11f, 8.8282992e-05f, 0x1p-124f, 1e35f};
  for (const float global_scale : global_scales) {
    for (int scale = 1; scale <= kE4m3MaxCode; scale += 5) {
      const float unit = nvfp4_unit(static_cast<uint8_t>(scale), global_scale);
      const std::vector<uint8_t> expected = packed_by_definition(w, unit);
      const std::vector<uint8_t> scales(static_cast<size_t>(n_blocks), static_cast<uint8_t>(scale));
      for_each_instruction_set([&] {
        std::vector<uint8_t> codes(w.size() / 2);
        nvfp4_pack(w.data(), n_blocks, scales.data(), global_scale, codes.data());
        ASSERT_EQ(codes, expected) << global_scale << " " << scale;
      });
    }
  }
}

// Quotients at every BF16 number and at its two neighbours in FP32, hence on and beside every
// midpoint: a unit one place below 1 moves each weight up by a place, one above moves it down.
TEST(Nvfp4, BulkPackingIsTheDefinitionBesideEveryBf16) {
  const std::vector<uint16_t> w = all_finite_bf16();
  const auto n_blocks = static_cast<int64_t>(w.size()) / kNvfp4Block;
  const std::vector<uint8_t> scales(static_cast<size_t>(n_blocks), kE4m3One);
  for (const float unit : {std::nextafter(1.0f, 0.0f), 1.0f, std::nextafter(1.0f, 2.0f)}) {
    const std::vector<uint8_t> expected = packed_by_definition(w, unit);
    for_each_instruction_set([&] {
      std::vector<uint8_t> codes(w.size() / 2);
      nvfp4_pack(w.data(), n_blocks, scales.data(), unit, codes.data());
      ASSERT_EQ(codes, expected) << unit;
    });
  }
}

TEST(Nvfp4, BulkScalesAreTheDefinitionForEveryAmax) {
  std::vector<uint16_t> w;  // one block for every finite magnitude, at a changing place and sign
  for (uint32_t code = 0; code < 0x7F80; ++code) {
    std::vector<uint16_t> block(16, static_cast<uint16_t>(code / 2));
    block[code % 16] = static_cast<uint16_t>(code | (code % 3 == 0 ? 0x8000 : 0));
    w.insert(w.end(), block.begin(), block.end());
  }
  const int64_t n_blocks = 0x7F80 - 3;  // no multiple of any vector
  for (const float ga : {1.0f, 0.2373046875f, 3e-30f, 3.3e38f, 37.5f}) {
    for (const Arithmetic arithmetic : kBoth) {
      for (const bool is_static : {false, true}) {
        for (const float peak : {448.0f, 256.0f}) {
          const Nvfp4Scaling scaling = {.ga = ga,
                                        .peak = peak,
                                        .global_scale = nvfp4_global_scale(ga, peak, arithmetic),
                                        .is_static = is_static,
                                        .arithmetic = arithmetic};
          std::vector<uint8_t> expected;
          for (int64_t code = 0; code < n_blocks; ++code) {
            expected.push_back(
                nvfp4_block_scale(bf16_to_float(static_cast<uint16_t>(code)), scaling));
          }
          for_each_instruction_set([&] {
            std::vector<uint8_t> scales(static_cast<size_t>(n_blocks));
            nvfp4_max_block_scales(w.data(), n_blocks, scaling, scales.data());
            ASSERT_EQ(scales, expected) << ga;
          });
        }
      }
    }
  }
}

TEST(Nvfp4, BulkUnpackingIsTheDefinition) {
  std::vector<uint8_t> codes;
  std::vector<uint8_t> scales;
  for (int scale = 0; scale < 127; ++scale) {
    scales.push_back(static_cast<uint8_t>(scale));
    for (int i = 0; i < 8; ++i) codes.push_back(static_cast<uint8_t>(scale * 8 + i));
  }
  for (const float global_scale : {1.0f, 8.8282992e-05f, 0x1p-124f}) {
    for_each_instruction_set([&] {
      std::vector<float> out(scales.size() * 16);
      nvfp4_unpack(codes.data(), static_cast<int64_t>(scales.size()), scales.data(), global_scale,
                   out.data());
      for (size_t i = 0; i < out.size(); ++i) {
        const int code = codes[i / 2] >> (i % 2 * 4) & 15;
        ASSERT_EQ(out[i], e2m1_to_float(static_cast<uint8_t>(code)) *
                              nvfp4_unit(scales[i / 16], global_scale));
      }
    });
  }
}

// A block of inputs by the definitions, one value at a time.
std::vector<float> rounded_block(const float* x, float input_scale) {
  float ba = 0;
  for (int i = 0; i < 16; ++i) ba = std::max(ba, std::fabs(x[i]));
  const float unit = nvfp4_unit(nvfp4_input_block_scale(ba, input_scale), input_scale);
  std::vector<float> rounded;
  for (int i = 0; i < 16; ++i) {
    rounded.push_back(unit == 0 ? 0 : e2m1_to_float(float_to_e2m1(x[i] / unit)) * unit);
  }
  return rounded;
}

TEST(Nvfp4, RoundsInputsAsDefined) {
  std::vector<float> x = gaussian_values(16 * 50, 21, 1.0);
  for (size_t i = 160; i < 320; ++i) x[i] *= 1e-6f;  // blocks whose scale is subnormal or zero
  for (size_t i = 320; i < 336; ++i) x[i] = 0;       // a block of zeros
  x[400] = 1e6f;                                     // beyond the calibrated range
  constexpr float kInputScale = 3.0f / 2688;
  for_each_instruction_set([&] {
    std::vector<float> rounded = x;
    kNvfp4Format.round_input({rounded.data(), 5, 160}, kInputScale);
    for (size_t i = 0; i < x.size(); i += 16) {
      const std::vector<float> expected = rounded_block(&x[i], kInputScale);
      for (size_t j = 0; j < 16; ++j) ASSERT_EQ(rounded[i + j], expected[j]) << i + j;
    }
  });
}

TEST(Nvfp4, RoundsInputsAtTheEdges) {
  for_each_instruction_set([&] {
    std::vector<float> tiny(16, 1e-9f);
    nvfp4_round_inputs(tiny.data(), 1, 1.0f);
    EXPECT_THAT(tiny, Each(0.0f));
    std::vector<float> with_nan(32, 1.0f);
    with_nan[3] = std::nanf("");
    nvfp4_round_inputs(with_nan.data(), 2, 1.0f / 2688);
    for (int i = 0; i < 16; ++i) EXPECT_TRUE(std::isnan(with_nan[static_cast<size_t>(i)]));
    EXPECT_EQ(with_nan[16], 1.0f);
    std::vector<float> with_infinity(16, 1.0f);
    with_infinity[3] = -HUGE_VALF;
    nvfp4_round_inputs(with_infinity.data(), 1, 0.5f / 2688);
    EXPECT_EQ(with_infinity[3], -0.5f);
  });
}

void expect_rejected(const ScaleRule& rule, const std::string& message) {
  const Tensor w = gaussian_tensor(1, 16, 1);
  try {
    kNvfp4Format.encode(w.view(), {.rule = rule});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
    EXPECT_THAT(error.message(), HasSubstr(message));
  }
}

TEST(Nvfp4, RejectsRulesItCannotStore) {
  expect_rejected({.method = ScaleMethod::kFp8Sweep}, "expected static ones");
  expect_rejected({.method = ScaleMethod::kMultipliers}, "expected static ones");
  expect_rejected({.four_over_six = true}, "expected static ones");
  expect_rejected({.method = ScaleMethod::kFp8Sweep, .is_static = true, .four_over_six = true},
                  "expected one of them");
}

}  // namespace
}  // namespace vernier::formats
