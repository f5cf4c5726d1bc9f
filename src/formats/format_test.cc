// What every registered format promises; then the registry, amax scans and distortion.
#include "formats/format.h"

#include <gmock/gmock.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "formats/fp16.h"
#include "formats/test_weights.h"

namespace vernier::formats {
namespace {

bool same_bytes(const PackedTensor& a, const PackedTensor& b) {
  for (const PlaneSpec& plane : a.format->planes) {
    const auto x = a.plane(plane.role).view().bytes();
    const auto y = b.plane(plane.role).view().bytes();
    if (x.size() != y.size() || std::memcmp(x.data(), y.data(), x.size()) != 0) return false;
  }
  return true;
}

std::vector<float> decoded(const PackedTensor& packed) {
  std::vector<float> out(static_cast<size_t>(packed.n * packed.k));
  packed.format->decode_rows(packed.view(), 0, packed.n, out.data());
  return out;
}

class EveryFormat : public testing::TestWithParam<const Format*> {
 protected:
  const Format& format() const { return *GetParam(); }

  // The rules this format encodes by.
  std::vector<ScaleRule> rules() const {
    return {{},
            {.is_static = true},
            {.method = ScaleMethod::kFp8Sweep, .is_static = true},
            {.method = ScaleMethod::kMultipliers, .is_static = true}};
  }
  // Odd numbers of rows, and of columns as far as the format has them.
  std::vector<Tensor> weights() const {
    std::vector<Tensor> all;
    const int64_t k = format().k_multiple;
    all.push_back(gaussian_tensor(1, k, 1));
    all.push_back(gaussian_tensor(7, 13 * k, 2));
    all.push_back(gaussian_tensor(33, 3 * k, 3, 1.0));
    all.push_back(gaussian_tensor(0, 5 * k, 3));
    return all;
  }
};

TEST_P(EveryFormat, IsFoundByName) { EXPECT_EQ(find_format(format().name), &format()); }

TEST_P(EveryFormat, PacksIntoTheBytesItSays) {
  for (const Tensor& weight : weights()) {
    const int64_t n = weight.shape()[0];
    const int64_t k = weight.shape()[1];
    const PackedTensor packed = format().encode(weight.view(), {});
    int64_t bytes = 0;
    for (const Tensor& plane : packed.planes) {
      if (plane.view().data != nullptr) bytes += plane.view().size_bytes();
    }
    EXPECT_EQ(bytes, packed_bytes(format(), n, k));
    // All but the per-tensor scalars are counted as bits per weight.
    EXPECT_NEAR(static_cast<double>(8 * bytes),
                format().bits_per_weight * static_cast<double>(n * k), 32);
  }
}

TEST_P(EveryFormat, DecodesAnyRangeOfRows) {
  const Tensor weight = gaussian_tensor(9, 48, 4);
  const PackedTensor packed = format().encode(weight.view(), {});
  const std::vector<float> all = decoded(packed);
  std::vector<float> some(3 * 48);
  format().decode_rows(packed.view(), 5, 3, some.data());
  EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin() + 5 * 48));
}

// An already packed weight packs into itself: its decoded values lie on the grid of its scales.
TEST_P(EveryFormat, IsIdempotentAtFixedScales) {
  for (const Tensor& weight : weights()) {
    if (weight.size() == 0) continue;
    const float amax = scan_amax(weight.view()).amax;
    const EncodeOptions options = {.rule = {}, .arithmetic = Arithmetic::kCpu, .global_amax = amax};
    const PackedTensor once = format().encode(weight.view(), options);
    const Tensor back = bf16_tensor(once.n, once.k, decoded(once));
    const PackedTensor twice = format().encode(back.view(), options);
    const PackedTensor thrice =
        format().encode(bf16_tensor(once.n, once.k, decoded(twice)).view(), options);
    // Rounding the decoded values to BF16 may move a block's amax across a tie once, not twice.
    EXPECT_TRUE(same_bytes(twice, thrice));
    const Distortion distortion = measure_distortion(back.view(), twice.view());
    EXPECT_GT(distortion.snr_db(), 40);  // BF16's own rounding is about 50 dB
  }
}

// Scales double exactly, so codes and block scales stay.
TEST_P(EveryFormat, IsEquivariantUnderPowersOfTwo) {
  const std::vector<float> values = gaussian_values(5 * 64, 6);
  std::vector<float> scaled = values;
  for (float& value : scaled) value *= 0x1p5f;
  for (const ScaleRule& rule : rules()) {
    const PackedTensor a = format().encode(bf16_tensor(5, 64, values).view(), {.rule = rule});
    const PackedTensor b = format().encode(bf16_tensor(5, 64, scaled).view(), {.rule = rule});
    const std::vector<float> x = decoded(a);
    const std::vector<float> y = decoded(b);
    for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(x[i] * 0x1p5f, y[i]);
  }
}

TEST_P(EveryFormat, IsMonotoneWithinABlock) {
  std::vector<float> values;
  for (int i = -8; i < 8; ++i) values.push_back(static_cast<float>(i) * 0.037f);
  const std::vector<float> out = decoded(format().encode(bf16_tensor(1, 16, values).view(), {}));
  EXPECT_TRUE(std::is_sorted(out.begin(), out.end()));
}

TEST_P(EveryFormat, DoesNotDependOnThreads) {
  const Tensor weight = gaussian_tensor(67, 1008, 8);
  const int n_threads = omp_get_max_threads();
  for (const ScaleRule& rule : rules()) {
    omp_set_num_threads(1);
    const PackedTensor one = format().encode(weight.view(), {.rule = rule});
    const Distortion distortion_one = measure_distortion(weight.view(), one.view());
    omp_set_num_threads(3);
    const PackedTensor three = format().encode(weight.view(), {.rule = rule});
    const Distortion distortion_three = measure_distortion(weight.view(), three.view());
    EXPECT_TRUE(same_bytes(one, three));
    EXPECT_EQ(distortion_one.noise, distortion_three.noise);
    EXPECT_EQ(distortion_one.signal, distortion_three.signal);
  }
  omp_set_num_threads(n_threads);
}

TEST_P(EveryFormat, RoundsOtherTypesToBf16First) {
  Tensor f32(DType::kF32, {3, 32});
  Tensor f16(DType::kF16, {3, 32});
  std::vector<uint16_t> from_f32;
  std::vector<uint16_t> from_f16;
  const std::vector<float> values = gaussian_values(96, 9);
  for (size_t i = 0; i < values.size(); ++i) {
    f32.as<float>()[i] = values[i];
    f16.as<uint16_t>()[i] = float_to_fp16(values[i]);
    from_f32.push_back(float_to_bf16(values[i]));
    from_f16.push_back(float_to_bf16(fp16_to_float(float_to_fp16(values[i]))));
  }
  for (const ScaleRule& rule : rules()) {
    const EncodeOptions options = {.rule = rule};
    EXPECT_TRUE(same_bytes(format().encode(f32.view(), options),
                           format().encode(bf16_tensor(3, 32, from_f32).view(), options)));
    EXPECT_TRUE(same_bytes(format().encode(f16.view(), options),
                           format().encode(bf16_tensor(3, 32, from_f16).view(), options)));
  }
}

TEST_P(EveryFormat, NeverStoresAZeroOrNanScale) {
  std::vector<float> values = gaussian_values(4 * 64, 10);
  for (size_t i = 0; i < 64; ++i) values[i] = i < 32 ? 0.0f : 1e-30f;
  for (const ScaleRule& rule : rules()) {
    const PackedTensor packed = format().encode(bf16_tensor(4, 64, values).view(), {.rule = rule});
    for (const PlaneSpec& plane : format().planes) {
      if (plane.role == PlaneRole::kBlockScales) {
        for (const uint8_t code : packed.plane(plane.role).as<uint8_t>()) {
          EXPECT_TRUE(code >= 0x01 && code <= 0x7E);
        }
      } else if (plane.role == PlaneRole::kGlobalScale) {
        EXPECT_GE(packed.plane(plane.role).as<float>()[0], std::numeric_limits<float>::min());
      }
    }
  }
}

// Searching may only reduce the error that it minimizes, up to the rounding of stored scales.
TEST_P(EveryFormat, SearchesDoNotAddNoise) {
  const Tensor weight = gaussian_tensor(64, 256, 11);
  const double max_noise =
      measure_distortion(weight.view(), format().encode(weight.view(), {}).view()).noise;
  for (const ScaleRule& rule : rules()) {
    if (rule.method != ScaleMethod::kFp8Sweep) continue;
    const PackedTensor packed = format().encode(weight.view(), {.rule = rule});
    EXPECT_LE(measure_distortion(weight.view(), packed.view()).noise, max_noise * (1 + 1e-6));
  }
}

TEST_P(EveryFormat, InputRoundingIsIdempotentAndKeepsRowStride) {
  if (format().input_divisor == 0) {
    EXPECT_EQ(format().round_input, nullptr);
    return;
  }
  std::vector<float> x = gaussian_values(3 * 40, 12, 1.0);
  const std::vector<float> before = x;
  format().round_input({x.data(), 3, 32, 40}, 4.0f / format().input_divisor);
  const std::vector<float> once = x;
  for (size_t i = 0; i < x.size(); ++i) {
    if (i % 40 >= 32)
      EXPECT_EQ(x[i], before[i]);  // between the rows
    else
      EXPECT_NEAR(x[i], before[i], 0.5);
  }
  EXPECT_NE(once, before);
}

INSTANTIATE_TEST_SUITE_P(Formats, EveryFormat,
                         testing::ValuesIn(all_formats().begin(), all_formats().end()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST(Registry, StartsWithTheUnquantizedFormat) {
  ASSERT_FALSE(all_formats().empty());
  EXPECT_EQ(all_formats()[0], &bf16_format());
  EXPECT_EQ(all_formats()[0]->name, "bf16");
  EXPECT_EQ(find_format("nvfp5"), nullptr);
}

TEST(Bf16Format, ReadsOtherTypesExactly) {
  Tensor f32(DType::kF32, {2, 3});
  Tensor f16(DType::kF16, {2, 3});
  for (size_t i = 0; i < 6; ++i) {
    f32.as<float>()[i] = 0.1f * static_cast<float>(i);
    f16.as<uint16_t>()[i] = static_cast<uint16_t>(0x3C01 + i);
  }
  std::vector<float> out(3);
  PackedView view{.format = &bf16_format(), .n = 2, .k = 3, .planes = {f32.view()}};
  bf16_format().decode_rows(view, 1, 1, out.data());
  EXPECT_EQ(out[2], 0.5f);
  view.planes[0] = f16.view();
  bf16_format().decode_rows(view, 1, 1, out.data());
  EXPECT_EQ(out[0], fp16_to_float(0x3C04));
}

TEST(ScanAmax, IsTheLargestMagnitudeAsBf16) {
  EXPECT_EQ(scan_amax(bf16_tensor(1, 3, std::vector<float>{0.5f, -2.0f, 1.0f}).view()).amax, 2.0f);
  EXPECT_EQ(scan_amax(bf16_tensor(0, 3, std::vector<float>{}).view()).amax, 0.0f);
  Tensor f32(DType::kF32, {1, 2});
  f32.as<float>()[0] = 1.00390625f;  // a tie of BF16, to even
  f32.as<float>()[1] = -0.5f;
  EXPECT_EQ(scan_amax(f32.view()).amax, 1.0f);
  Tensor f16(DType::kF16, {1, 2});
  f16.as<uint16_t>()[0] = 0x8001;
  f16.as<uint16_t>()[1] = 0x0000;
  EXPECT_EQ(scan_amax(f16.view()).amax, 0x1p-24f);
}

TEST(ScanAmax, NamesTheFirstNonFiniteElement) {
  std::vector<uint16_t> codes(200000, 0x3F80);
  codes[70000] = 0xC000;
  EXPECT_FALSE(scan_amax(bf16_tensor(1, 200000, codes).view()).first_non_finite);
  codes[150000] = 0x7FC0;
  codes[199999] = 0xFF80;
  const AmaxScan scan = scan_amax(bf16_tensor(1, 200000, codes).view());
  EXPECT_EQ(scan.first_non_finite, 150000);
  EXPECT_EQ(scan.amax, 2.0f);
  // A finite FP32 value beyond BF16 counts as the infinity that it becomes.
  Tensor f32(DType::kF32, {1, 2});
  f32.as<float>()[0] = 3.0e38f;
  f32.as<float>()[1] = std::numeric_limits<float>::max();
  EXPECT_EQ(scan_amax(f32.view()).first_non_finite, 1);
  f32.as<float>()[1] = bits_float(0x7F7F7FFF);
  EXPECT_FALSE(scan_amax(f32.view()).first_non_finite);
}

TEST(Distortion, CountsWhatHappened) {
  // With ga = 6 * 448 the block's unit is 1.
  std::vector<float> values(16, 0.0f);
  values[0] = 2688.0f;  // own block scale 448
  std::vector<float> second = {7, 0.2f, -0.2f, 1, 2, 3, 4, 6, 0, 0, 0, 0, 0, 0, 0, 0};
  values.insert(values.end(), second.begin(), second.end());
  const Tensor weight = bf16_tensor(1, 32, values);
  PackedTensor packed = find_format("nvfp4")->encode(weight.view(), {});
  packed.plane(PlaneRole::kBlockScales).as<uint8_t>()[1] = 0x38;
  const std::vector<float> kept = {2688, 6, 1, 2, 3, 4, 6};
  auto codes = packed.plane(PlaneRole::kCodes).as<uint8_t>();
  const uint8_t wanted[8] = {0x07, 0x28, 0x54, 0x76, 0, 0, 0, 0};
  std::copy(std::begin(wanted), std::end(wanted), codes.begin() + 8);
  const Distortion distortion = measure_distortion(weight.view(), packed.view());
  const double small = round_to_bf16(0.2f);
  EXPECT_EQ(distortion.n_saturated, 1);
  EXPECT_EQ(distortion.n_flushed, 2);
  EXPECT_DOUBLE_EQ(distortion.noise, 1 + 2 * small * small);
  EXPECT_DOUBLE_EQ(distortion.signal, 2688.0 * 2688 + 49 + 2 * small * small + 1 + 4 + 9 + 16 + 36);
  EXPECT_DOUBLE_EQ(distortion.snr_db(), 10 * std::log10(distortion.signal / distortion.noise));
}

TEST(Distortion, OfAnExactCopyIsNone) {
  const Tensor weight = gaussian_tensor(3, 5, 1);
  const PackedTensor packed = bf16_format().encode(weight.view(), {});
  const Distortion distortion = measure_distortion(weight.view(), packed.view());
  EXPECT_EQ(distortion.noise, 0);
  EXPECT_EQ(distortion.snr_db(), std::numeric_limits<double>::infinity());
  EXPECT_EQ(distortion.n_saturated, 0);
}

}  // namespace
}  // namespace vernier::formats
