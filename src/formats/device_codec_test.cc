// The codecs on a device against those of the host, bit for bit: every registered format, rule and
// arithmetic. Skipped where there is no device.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "base/error.h"
#include "formats/fp16.h"
#include "formats/fp8.h"
#include "formats/nvfp4.h"
#include "formats/quotient.h"
#include "formats/rows.h"
#include "formats/test_weights.h"
#include "tensor/any_matrix.h"
#include "tensor/device.h"

namespace vernier::formats {
namespace {

constexpr Arithmetic kBoth[] = {Arithmetic::kCpu, Arithmetic::kCuda};

// By stride through the divisors; all 2^30 pairs were tried once.
TEST(Bf16Quotient, IsTheRoundedQuotient) {
  for (uint32_t mantissa = 0; mantissa < 1u << 23; mantissa += 509) {
    const float divisor = bits_float(0x3F800000u | mantissa);
    const float reciprocal = 1.0f / divisor;
    for (uint32_t code = 0x3F80; code < 0x4000; ++code) {
      const float value = bf16_to_float(static_cast<uint16_t>(code));
      ASSERT_EQ(bf16_quotient(value, divisor, reciprocal), value / divisor) << value << divisor;
    }
  }
}

// Powers of two change nothing while the quotient is at least 2^-16.
TEST(Bf16Quotient, IsTheRoundedQuotientAtTheEdgesOfItsRange) {
  for (const float divisor :
       {0x1p-60f, 0x1.fffffep-60f, 0x1.000002p-60f, 0x1.234568p59f, 0x1p60f}) {
    const float reciprocal = 1.0f / divisor;
    for (uint32_t code = 0; code < 0x7F80; ++code) {
      const float value = bf16_to_float(static_cast<uint16_t>(code));
      const float exact = value / divisor;
      const float found = bf16_quotient(value, divisor, reciprocal);
      if (std::isinf(exact)) {
        EXPECT_TRUE(std::isnan(found) || std::isinf(found));
      } else if (exact >= 0x1p-16f) {
        ASSERT_EQ(found, exact) << value << " / " << divisor;
      } else {
        ASSERT_TRUE(found >= 0 && found < 0x1p-15f) << value << " / " << divisor;
      }
    }
  }
}

class OnDevice : public testing::TestWithParam<const Format*> {
 protected:
  void SetUp() override {
    if (n_devices() == 0) GTEST_SKIP() << "no CUDA device";
    device_ = open_device({});
  }
  Device* device() const { return device_.get(); }
  const Format& format() const { return *GetParam(); }

  // Packs there and here; the same bytes in every plane.
  void expect_same_bytes(const Tensor& weight, const EncodeOptions& options) const {
    const Tensor there = to_device(weight.view(), device());
    const PackedTensor on_device = encode_weight(format(), there.view(), options);
    ASSERT_EQ(on_device.view().device(), device());
    expect_same_bytes(to_host(on_device.view()), format().encode(weight.view(), options));
  }
  void expect_same_bytes(const PackedTensor& found, const PackedTensor& expected) const {
    ASSERT_EQ(found.format, expected.format);
    ASSERT_EQ(found.n, expected.n);
    ASSERT_EQ(found.k, expected.k);
    for (const PlaneSpec& plane : format().planes) {
      const auto a = found.plane(plane.role).view().bytes();
      const auto b = expected.plane(plane.role).view().bytes();
      ASSERT_EQ(a.size(), b.size());
      const auto at = std::mismatch(a.begin(), a.end(), b.begin()).first;
      ASSERT_EQ(at, a.end()) << plane.suffix << " differs at byte " << at - a.begin();
    }
  }

 private:
  std::unique_ptr<Device> device_;
};

class DeviceCodecs : public OnDevice {
 protected:
  static std::vector<ScaleRule> rules() {
    return {{},
            {.is_static = true},
            {.method = ScaleMethod::kFp8Sweep, .is_static = true},
            {.method = ScaleMethod::kMultipliers, .is_static = true},
            {.method = ScaleMethod::kMultipliers, .is_static = true, .start = 0.5f, .stop = 1.0f},
            {.is_static = true, .four_over_six = true},
            kFourOverSix};
  }
  void expect_same_bytes_by_every_rule(const Tensor& weight,
                                       std::optional<float> amax = std::nullopt) const {
    for (const ScaleRule& rule : rules()) {
      for (const Arithmetic arithmetic : kBoth) {
        SCOPED_TRACE(testing::Message() << "method " << static_cast<int>(rule.method)
                                        << (rule.is_static ? " static" : " dynamic")
                                        << (rule.four_over_six ? " 4/6" : "") << ", "
                                        << (arithmetic == Arithmetic::kCpu ? "cpu" : "cuda"));
        expect_same_bytes(weight, {.rule = rule, .arithmetic = arithmetic, .global_amax = amax});
      }
    }
  }
  // Rows of 48 with blocks of many kinds: Gaussian, heavy-tailed, tiny beside the others, constant,
  // zero (of both signs), one outlier, and multiples of small numbers, which are full of ties.
  static Tensor weight_of_many_kinds(uint64_t seed, double size = 1) {
    std::vector<float> values;
    const auto uniform = [&](uint32_t stream, uint64_t i) {
      return random_uniform(seed, stream, i);
    };
    const auto add = [&](int n_rows, auto value) {
      for (uint64_t i = 0; i < static_cast<uint64_t>(n_rows) * 48; ++i) {
        values.push_back(static_cast<float>(size * value(i)));
      }
    };
    add(53, [&](uint64_t i) { return 0.02 * gaussian(seed, i); });
    add(50, [&](uint64_t i) { return 0.01 * gaussian(seed + 1, i) / (0.02 + uniform(3, i)); });
    add(40, [&](uint64_t i) {
      return 0.02 * gaussian(seed + 2, i) * std::exp2(-30 * uniform(4, i / 16));
    });
    add(14, [&](uint64_t i) { return std::exp2(-12 * uniform(5, i / 16)); });
    add(2, [&](uint64_t i) { return i % 3 == 0 ? -0.0 : 0.0; });
    add(14,
        [&](uint64_t i) { return i % 16 == i / 16 % 16 ? uniform(6, i) : 1e-4 * uniform(7, i); });
    add(20, [&](uint64_t i) { return (std::floor(17 * uniform(8, i)) - 8) / 64; });
    add(20, [&](uint64_t i) {
      return (std::floor(7 * uniform(9, i)) - 3) * std::exp2(-9 * uniform(10, i / 16));
    });
    return bf16_tensor(std::ssize(values) / 48, 48, values);
  }
};

TEST_P(DeviceCodecs, PackAsTheHostDoes) {
  const int64_t k = format().k_multiple;
  for (const Tensor& weight :
       {gaussian_tensor(1, k, 1), gaussian_tensor(7, 13 * k, 2), gaussian_tensor(33, 3 * k, 3, 1.0),
        gaussian_tensor(3, 16, 4), gaussian_tensor(5, 48, 5), gaussian_tensor(1, 4096, 6)}) {
    SCOPED_TRACE(to_string(weight.shape()));
    expect_same_bytes_by_every_rule(weight);
    expect_same_bytes_by_every_rule(weight, 3 * scan_amax(weight.view()).amax);
  }
}

TEST_P(DeviceCodecs, PackBlocksOfManyKindsAsTheHostDoes) {
  for (const uint64_t seed : {1, 2, 3}) expect_same_bytes_by_every_rule(weight_of_many_kinds(seed));
}

// Far from 1: quotients, squares and scales at the ends of FP32's range.
TEST_P(DeviceCodecs, PackAtTheExtremesAsTheHostDoes) {
  for (const double size :
       {0x1p-127, 0x1p-110, 0x1p-70, 0x1p-50, 0x1p-30, 0x1p30, 0x1p70, 0x1p110}) {
    SCOPED_TRACE(size);
    expect_same_bytes_by_every_rule(weight_of_many_kinds(4, size));
  }
}

TEST_P(DeviceCodecs, PackZerosAndNothingAsTheHostDoes) {
  expect_same_bytes_by_every_rule(bf16_tensor(3, 32, std::vector<float>(96, 0.0f)));
  expect_same_bytes_by_every_rule(bf16_tensor(3, 32, std::vector<float>(96, -0.0f)));
  expect_same_bytes_by_every_rule(gaussian_tensor(0, 32, 1));
}

// More blocks than the resident grid takes at once.
TEST_P(DeviceCodecs, PackALargeWeightAsTheHostDoes) {
  const std::vector<float> tile = gaussian_values(1 << 16, 9);
  std::vector<uint16_t> codes(2051 * 4096);
  for (size_t i = 0; i < codes.size(); ++i) {
    codes[i] = float_to_bf16(tile[(i * 31 + i / tile.size()) % tile.size()]);
  }
  const Tensor weight = bf16_tensor(2051, 4096, codes);
  for (const ScaleRule& rule : rules()) {
    if (rule.method == ScaleMethod::kMultipliers && !rule.four_over_six) continue;
    expect_same_bytes(weight, {.rule = rule});
  }
}

// A weight that lies inside a larger tensor, at an address no vector load takes.
TEST_P(DeviceCodecs, PackAnUnalignedWeight) {
  const Tensor weight = gaussian_tensor(9, 48, 10);
  Tensor around(DType::kBF16, {9 * 48 + 1});
  std::copy_n(weight.view().data, weight.view().size_bytes(), around.data() + 2);
  const Tensor there = to_device(around.view(), device());
  const TensorView inside = {DType::kBF16, {9, 48}, there.view().data + 2, device()};
  for (const ScaleRule& rule : rules()) {
    const PackedTensor packed = encode_weight(format(), inside, {.rule = rule});
    expect_same_bytes(to_host(packed.view()), format().encode(weight.view(), {.rule = rule}));
    const Distortion distortion = measure_distortion(inside, packed.view());
    EXPECT_GT(distortion.signal, 0);
  }
  EXPECT_EQ(scan_amax(inside).amax, scan_amax(weight.view()).amax);
}

AnyMatrix decoded_on(Device* device, const PackedTensor& packed, int64_t first_row, int64_t n_rows,
                     DType dtype) {
  AnyMatrix out(n_rows, packed.k, dtype, device);
  packed.format->device_codec->decode_rows(packed.view(), first_row, out);
  return out;
}

PackedTensor copy_to(Device* device, const PackedTensor& packed) {
  PackedTensor copy{.format = packed.format, .n = packed.n, .k = packed.k, .planes = {}};
  for (const PlaneSpec& plane : packed.format->planes) {
    Device* const where = plane.role == PlaneRole::kGlobalScale ? nullptr : device;
    copy.plane(plane.role) = to_device(packed.plane(plane.role).view(), where);
  }
  return copy;
}

// By the definitions: codes times block scales, without the global scale.
std::vector<float> values_of(const PackedTensor& packed) {
  PackedTensor copy = copy_to(nullptr, packed);
  if (copy.plane(PlaneRole::kGlobalScale).data() != nullptr) {
    copy.plane(PlaneRole::kGlobalScale).as<float>()[0] = 1;
  }
  std::vector<float> values(static_cast<size_t>(packed.n * packed.k));
  packed.format->decode_rows(copy.view(), 0, packed.n, values.data());
  return values;
}

std::vector<float> flat(const Matrix& matrix) {
  const auto values = ConstMatrixView(matrix);
  std::vector<float> all;
  for (int64_t row = 0; row < values.rows; ++row) {
    all.insert(all.end(), values.row(row).begin(), values.row(row).end());
  }
  return all;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST_P(DeviceCodecs, DecodeAsTheHostDoes) {
  for (const Tensor& weight : {weight_of_many_kinds(5), gaussian_tensor(11, 16, 1),
                               gaussian_tensor(5, 13 * format().k_multiple, 2)}) {
    const PackedTensor packed = format().encode(weight.view(), {});
    const PackedTensor there = copy_to(device(), packed);
    const std::vector<float> expected = values_of(packed);
    for (const DType dtype : {DType::kBF16, DType::kF32}) {
      EXPECT_TRUE(
          same_bits(flat(to_host(decoded_on(device(), there, 0, packed.n, dtype))), expected));
      const int64_t first = std::min<int64_t>(3, packed.n);
      const std::vector<float> rest(expected.begin() + first * packed.k, expected.end());
      EXPECT_TRUE(same_bits(
          flat(to_host(decoded_on(device(), there, first, packed.n - first, dtype))), rest));
    }
  }
}

// Every code, at many block scales where the format has them; the finite ones only.
TEST_P(DeviceCodecs, DecodeEveryCode) {
  PackedTensor packed = make_packed(format(), 126, 512);
  for (const PlaneSpec& plane : format().planes) {
    auto& tensor = packed.plane(plane.role);
    if (plane.role == PlaneRole::kGlobalScale) {
      tensor.as<float>()[0] = 1;
    } else if (plane.role == PlaneRole::kBlockScales) {
      const auto scales = tensor.as<uint8_t>();
      for (size_t i = 0; i < scales.size(); ++i) {
        scales[i] = static_cast<uint8_t>(1 + i / (scales.size() / 126));
      }
    } else {
      std::byte* const bytes = tensor.data();
      for (int64_t i = 0; i < tensor.view().size_bytes(); ++i) bytes[i] = std::byte(i % 251);
      if (format().name == "fp8_e4m3") {
        for (uint8_t& code : tensor.as<uint8_t>()) code = (code & 0x7F) == 0x7F ? 0 : code;
      }
    }
  }
  const PackedTensor there = copy_to(device(), packed);
  const std::vector<float> expected = values_of(packed);
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    EXPECT_TRUE(
        same_bits(flat(to_host(decoded_on(device(), there, 0, packed.n, dtype))), expected));
  }
}

TEST_P(DeviceCodecs, DecodeIntoAWiderMatrix) {
  const PackedTensor packed = format().encode(gaussian_tensor(5, 32, 3).view(), {});
  const PackedTensor there = copy_to(device(), packed);
  const std::vector<float> expected = values_of(packed);
  for (const int64_t first_col : {0, 1, 8}) {
    AnyMatrix out(5, 47, DType::kBF16, device());
    fill_zero(out.view().data, device(), out.size_bytes());
    format().device_codec->decode_rows(there.view(), 0, out.view().col_range(first_col, 32));
    const Matrix host = to_host(out);
    for (int64_t row = 0; row < 5; ++row) {
      for (int64_t col = 0; col < 47; ++col) {
        const int64_t from = col - first_col;
        const bool is_inside = from >= 0 && from < 32;
        const float want = is_inside ? expected[static_cast<size_t>(row * 32 + from)] : 0.0f;
        ASSERT_EQ(ConstMatrixView(host).row(row)[static_cast<size_t>(col)], want);
      }
    }
  }
}

// The sums differ from the host's in the order of at most 2^20 additions of positive numbers, the
// counts not at all.
TEST_P(DeviceCodecs, DistortionIsTheHosts) {
  for (const Tensor& weight :
       {weight_of_many_kinds(6), gaussian_tensor(7, 13 * format().k_multiple, 2),
        gaussian_tensor(0, 16, 1)}) {
    const Tensor weight_there = to_device(weight.view(), device());
    for (const ScaleRule& rule : rules()) {
      const PackedTensor packed = format().encode(weight.view(), {.rule = rule});
      const PackedTensor there = copy_to(device(), packed);
      const Distortion expected = measure_distortion(weight.view(), packed.view());
      const Distortion found = measure_distortion(weight_there.view(), there.view());
      EXPECT_NEAR(found.signal, expected.signal, 1e-12 * expected.signal);
      EXPECT_NEAR(found.noise, expected.noise, 1e-12 * expected.noise);
      EXPECT_EQ(found.n_saturated, expected.n_saturated);
      EXPECT_EQ(found.n_flushed, expected.n_flushed);
      const Distortion again = measure_distortion(weight_there.view(), there.view());
      EXPECT_EQ(again.signal, found.signal);
      EXPECT_EQ(again.noise, found.noise);
    }
  }
}

TEST_P(DeviceCodecs, RejectTheRulesThatTheHostRejects) {
  const Tensor there = to_device(gaussian_tensor(1, 16, 1).view(), device());
  const EncodeOptions options = {.rule = {.method = ScaleMethod::kFp8Sweep}};
  if (format().name == "nvfp4") {
    EXPECT_THROW(encode_weight(format(), there.view(), options), Error);
  } else {
    encode_weight(format(), there.view(), options);
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, DeviceCodecs,
                         testing::ValuesIn(all_formats().begin(), all_formats().end()),
                         [](const auto& info) { return std::string(info.param->name); });

// Inputs: every format that rounds them.
class DeviceInputs : public OnDevice {
 protected:
  // Random values, those far below and above the calibrated range, zeros of both signs, infinities
  // and NaNs: whole blocks of special ones, and blocks with one.
  static Matrix inputs() {
    Matrix x(13, 160);
    const std::vector<float> values = gaussian_values(13 * 160, 21, 1.0);
    std::copy(values.begin(), values.end(), x.values().begin());
    const auto row = [&](int64_t index) { return MatrixView(x).row(index); };
    for (float& value : row(1)) value *= 1e-6f;
    for (float& value : row(2)) value *= 1e-30f;
    for (float& value : row(3)) value *= 1e30f;
    for (float& value : row(4)) value = std::copysign(0.0f, value);
    for (float& value : row(5)) value = value < 0 ? -1e-40f : 1e-40f;
    row(6)[3] = std::numeric_limits<float>::infinity();
    row(6)[40] = -std::numeric_limits<float>::infinity();
    row(6)[70] = std::numeric_limits<float>::quiet_NaN();
    for (size_t i = 96; i < 112; ++i) row(6)[i] = std::numeric_limits<float>::quiet_NaN();
    row(7)[5] = 1e6f;
    return x;
  }
  static Matrix as_bf16(const Matrix& x) {
    Matrix rounded = x;
    for (float& value : rounded.values()) value = round_to_bf16(value);
    return rounded;
  }
  AnyMatrix upload(const Matrix& x, DType dtype) const {
    if (dtype == DType::kF32) return to_device(ConstMatrixView(x), device());
    AnyMatrix codes(x.rows(), x.cols(), DType::kBF16, nullptr);
    const std::vector<float> values = flat(x);
    std::transform(values.begin(), values.end(), codes.view().as<uint16_t>(), float_to_bf16);
    AnyMatrix there(x.rows(), x.cols(), DType::kBF16, device());
    copy_matrix(codes, there);
    return there;
  }
  // The codes of one row by the definitions, and what round_input makes of it, from the same codes.
  struct Rounded {
    std::vector<float> codes;
    std::vector<float> values;
  };
  Rounded rounded_row(std::span<const float> x, float scale) const {
    Rounded rounded;
    if (format().name == "fp8_e4m3") {
      for (const float value : x) {
        rounded.codes.push_back(e4m3_to_float(float_to_e4m3_saturating(value / scale)));
        rounded.values.push_back(rounded.codes.back() * scale);
      }
      return rounded;
    }
    for (size_t first = 0; first < x.size(); first += 16) {
      uint32_t ba = 0;
      for (size_t i = first; i < first + 16; ++i) ba = std::max(ba, float_bits(std::fabs(x[i])));
      const uint8_t block_scale = nvfp4_input_block_scale(bits_float(ba), scale);
      const float unit = nvfp4_unit(block_scale, scale);
      for (size_t i = first; i < first + 16; ++i) {
        const float code = e2m1_to_float(float_to_e2m1(x[i] / unit));
        rounded.codes.push_back(unit == 0 ? 0 : code * e4m3_to_float(block_scale));
        rounded.values.push_back(unit == 0 ? 0 : code * unit);
      }
    }
    return rounded;
  }
};

bool is_same(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// The codes are the definitions', and of those round_input makes its results.
TEST_P(DeviceInputs, RoundAsTheHostDoes) {
  for (const float scale : {4.0f / format().input_divisor, 1.0f, 0.0123f, 0x1p-70f, 0x1p70f}) {
    for (const DType in : {DType::kBF16, DType::kF32}) {
      const Matrix x = in == DType::kBF16 ? as_bf16(inputs()) : inputs();
      Matrix host = x;
      format().round_input(host, scale);
      for (const DType out : {DType::kBF16, DType::kF32}) {
        AnyMatrix codes(x.rows(), x.cols(), out, device());
        format().device_codec->encode_input(upload(x, in), scale, codes);
        const Matrix found = to_host(codes);
        for (int64_t row = 0; row < x.rows(); ++row) {
          const Rounded expected = rounded_row(ConstMatrixView(x).row(row), scale);
          for (size_t col = 0; col < expected.codes.size(); ++col) {
            const float code = ConstMatrixView(found).row(row)[col];
            ASSERT_TRUE(is_same(code, expected.codes[col]))
                << code << " for " << ConstMatrixView(x).row(row)[col] << ", row " << row
                << ", column " << col << ", expected " << expected.codes[col] << ", scale "
                << scale;
            ASSERT_TRUE(is_same(ConstMatrixView(host).row(row)[col], expected.values[col]));
          }
        }
      }
    }
  }
}

TEST_P(DeviceInputs, RoundPartsOfWiderMatrices) {
  const Matrix x = as_bf16(inputs());
  const float scale = 4.0f / format().input_divisor;
  const AnyMatrix there = upload(x, DType::kBF16);
  for (const int64_t first_col : {0, 3, 16}) {
    AnyMatrix codes(5, 77, DType::kBF16, device());
    fill_zero(codes.view().data, device(), codes.size_bytes());
    format().device_codec->encode_input(there.view().row_range(0, 5).col_range(first_col, 64),
                                        scale, codes.view().col_range(first_col / 3, 64));
    const Matrix found = to_host(codes);
    for (int64_t row = 0; row < 5; ++row) {
      const auto source = ConstMatrixView(x).row(row).subspan(static_cast<size_t>(first_col), 64);
      const Rounded expected = rounded_row(source, scale);
      for (int64_t col = 0; col < 77; ++col) {
        const int64_t from = col - first_col / 3;
        const bool is_inside = from >= 0 && from < 64;
        ASSERT_EQ(ConstMatrixView(found).row(row)[static_cast<size_t>(col)],
                  is_inside ? expected.codes[static_cast<size_t>(from)] : 0.0f);
      }
    }
  }
}

// As a pass over x before would have left them: in x's type.
TEST_P(DeviceInputs, AreMappedOnTheirWay) {
  const float scale = 4.0f / format().input_divisor;
  const int64_t n_cols = format().k_multiple == 1 ? 61 : 64;
  for (const DType in : {DType::kBF16, DType::kF32}) {
    const Matrix x = in == DType::kBF16 ? as_bf16(inputs()) : inputs();
    Matrix mapped = x;
    for (float& value : mapped.values()) value = squared_relu(value);
    if (in == DType::kBF16) mapped = as_bf16(mapped);
    const AnyMatrix x_there = upload(x, in);
    const AnyMatrix mapped_there = upload(mapped, in);
    for (const int64_t first_col : {0, 3, 16}) {
      AnyMatrix found(x.rows(), n_cols, DType::kBF16, device());
      AnyMatrix expected(x.rows(), n_cols, DType::kBF16, device());
      format().device_codec->encode_input(x_there.view().col_range(first_col, n_cols),
                                          {scale, InputMap::kSquaredRelu}, found);
      format().device_codec->encode_input(mapped_there.view().col_range(first_col, n_cols), scale,
                                          expected);
      const std::vector<float> codes = flat(to_host(found));
      const std::vector<float> wanted = flat(to_host(expected));
      for (size_t i = 0; i < codes.size(); ++i) {
        ASSERT_TRUE(is_same(codes[i], wanted[i])) << codes[i] << ", expected " << wanted[i];
      }
    }
  }
}

TEST_P(DeviceInputs, RoundNothing) {
  const AnyMatrix x(0, 32, DType::kBF16, device());
  AnyMatrix codes(0, 32, DType::kBF16, device());
  format().device_codec->encode_input(x, 1.0f, codes);
}

// The type of codes that products take, where the format names one.
TEST_P(DeviceInputs, StoreTheirOwnCodes) {
  const std::optional<DType> dtype = format().device_codec->input_dtype;
  if (format().name != "fp8_e4m3") {
    EXPECT_EQ(dtype, std::nullopt);
    return;
  }
  ASSERT_EQ(dtype, DType::kF8E4M3);
  const float scale = 0.0037f;
  for (const DType in : {DType::kBF16, DType::kF32}) {
    const Matrix x = in == DType::kBF16 ? as_bf16(inputs()) : inputs();
    AnyMatrix codes(x.rows(), x.cols(), DType::kF8E4M3, device());
    format().device_codec->encode_input(upload(x, in), scale, codes);
    AnyMatrix host(x.rows(), x.cols(), DType::kF8E4M3, nullptr);
    copy_matrix(codes, host);
    const std::vector<float> values = flat(x);
    for (size_t i = 0; i < values.size(); ++i) {
      const uint8_t code = host.view().as<uint8_t>()[i];
      const uint8_t expected = float_to_e4m3_saturating(values[i] / scale);
      const uint8_t sign = std::isnan(values[i]) ? 0x80 : 0;  // a NaN's is not kept
      ASSERT_EQ(code | sign, expected | sign) << values[i];
    }
  }
}

std::vector<const Format*> formats_with_inputs() {
  std::vector<const Format*> formats;
  for (const Format* format : all_formats()) {
    if (format->round_input != nullptr) formats.push_back(format);
  }
  return formats;
}

INSTANTIATE_TEST_SUITE_P(Formats, DeviceInputs, testing::ValuesIn(formats_with_inputs()),
                         [](const auto& info) { return std::string(info.param->name); });

class DeviceFp8 : public OnDevice {};
class DeviceNvfp4 : public OnDevice {};
class DeviceBf16 : public OnDevice {};
class DeviceScan : public OnDevice {};

// Every finite BF16 value at many scales: the tensor's own, smaller ones, which saturate, and
// scales beyond the fast division's range.
TEST_P(DeviceFp8, PackEveryBf16AtManyScales) {
  const std::vector<uint16_t> codes = all_finite_bf16();
  const Tensor w = bf16_tensor(5, std::ssize(codes) / 5, codes);
  std::vector<float> amaxes = {448, 1, 0.75f, 0x1p-120f, 0x1p-52f, 0x1p68f, 3.3e38f};
  for (uint64_t i = 0; i < 100; ++i) {
    const auto amax = static_cast<float>(std::exp2(120 * random_uniform(7, 0, i) - 60));
    amaxes.push_back(i % 2 == 0 ? round_to_bf16(amax) : amax);
  }
  for (const float amax : amaxes) {
    SCOPED_TRACE(amax);
    for (const Arithmetic arithmetic : kBoth) {
      expect_same_bytes(w, {.rule = {}, .arithmetic = arithmetic, .global_amax = amax});
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, DeviceFp8, testing::Values(&kFp8E4m3Format));

// Under every block scale every magnitude up to the one that takes it, with both signs, so that
// every code's threshold is crossed. A block has the scale's magnitude and 15 others.
Tensor magnitudes_under_every_scale(float global_scale) {
  std::vector<uint16_t> largest(kE4m3MaxCode + 1);  // the last BF16 amax with this block scale
  for (uint32_t code = 1; code < 0x7F80; ++code) {
    const float amax = bf16_to_float(static_cast<uint16_t>(code));
    const uint8_t scale = nvfp4_dynamic_block_scale(amax, global_scale);
    if (scale < kE4m3MaxCode || largest[scale] == 0) {
      largest[scale] = static_cast<uint16_t>(code);
    }
  }
  std::vector<uint16_t> codes;
  for (const uint16_t amax : largest) {
    // Below a 2^-16th of it all codes are 0; of those only some.
    for (int code = amax; code >= 0; code -= code > amax - 16 * 128 ? 1 : 509) {
      for (const int sign : {0, 0x8000}) {
        if (codes.size() % 16 == 0) codes.push_back(amax);
        codes.push_back(static_cast<uint16_t>(code | sign));
      }
    }
    while (codes.size() % 16 != 0) codes.push_back(0);
  }
  return bf16_tensor(1, std::ssize(codes), codes);
}

TEST_P(DeviceNvfp4, PackEveryMagnitudeAtEveryScale) {
  std::vector<float> amaxes = {2688, 1, 1.3125f, 0x1p-100f, 1e30f, 3.3e38f, 1e-30f};
  for (uint64_t i = 0; i < 24; ++i) {
    amaxes.push_back(
        round_to_bf16(static_cast<float>(std::exp2(40 * random_uniform(8, 0, i) - 30))));
  }
  for (const float amax : amaxes) {
    SCOPED_TRACE(amax);
    const float global_scale = nvfp4_global_scale(storable_amax(amax, 2688), 448, Arithmetic::kCpu);
    const Tensor w = magnitudes_under_every_scale(global_scale);
    expect_same_bytes(w, {.rule = {}, .arithmetic = Arithmetic::kCpu, .global_amax = amax});
    expect_same_bytes(w, {.rule = {.is_static = true}, .global_amax = amax});
  }
}

// Weights beyond the scale's range, whatever the rule makes of that: a global amax that is too
// small is the caller's error, but must not reach other bytes than the host's.
TEST_P(DeviceNvfp4, SaturateAsTheHostDoes) {
  std::vector<uint16_t> codes = all_finite_bf16();
  codes.resize(codes.size() / 16 * 16);
  const Tensor w = bf16_tensor(1, std::ssize(codes), codes);
  for (const float amax : {1e-3f, 1.0f, 1e6f}) {
    expect_same_bytes(w, {.rule = {}, .global_amax = amax});
    expect_same_bytes(
        w, {.rule = {.method = ScaleMethod::kFp8Sweep, .is_static = true}, .global_amax = amax});
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, DeviceNvfp4, testing::Values(&kNvfp4Format));

TEST_P(DeviceBf16, DecodesOtherTypes) {
  Tensor f32(DType::kF32, {3, 21});
  Tensor f16(DType::kF16, {3, 21});
  std::vector<float> from_f32, from_f16;
  const std::vector<float> values = gaussian_values(63, 9);
  for (size_t i = 0; i < values.size(); ++i) {
    f32.as<float>()[i] = values[i];
    f16.as<uint16_t>()[i] = float_to_fp16(values[i]);
    from_f32.push_back(values[i]);
    from_f16.push_back(fp16_to_float(float_to_fp16(values[i])));
  }
  const auto expect_decoded = [&](const Tensor& plane, std::vector<float> expected) {
    const Tensor there = to_device(plane.view(), device());
    const PackedView packed = {.format = &bf16_format(), .n = 3, .k = 21, .planes = {there.view()}};
    AnyMatrix wide(3, 21, DType::kF32, device());
    packed.format->device_codec->decode_rows(packed, 0, wide);
    EXPECT_TRUE(same_bits(flat(to_host(wide)), expected));
    AnyMatrix narrow(3, 21, DType::kBF16, device());
    packed.format->device_codec->decode_rows(packed, 0, narrow);
    for (float& value : expected) value = round_to_bf16(value);
    EXPECT_TRUE(same_bits(flat(to_host(narrow)), expected));
  };
  expect_decoded(f32, from_f32);
  expect_decoded(f16, from_f16);
}

INSTANTIATE_TEST_SUITE_P(Formats, DeviceBf16, testing::Values(&kBf16Format));

TEST_P(DeviceScan, FindsTheLargestMagnitudeWhereverItIs) {
  for (const size_t count : {1, 7, 8, 9, 2047, 8192, 100003}) {
    for (const size_t place : {size_t{0}, count / 2, count - 1}) {
      std::vector<uint16_t> codes(count, 0x3F80);
      codes[place] = 0xC123;
      const Tensor there = to_device(bf16_tensor(1, std::ssize(codes), codes).view(), device());
      const AmaxScan scan = scan_amax(there.view());
      EXPECT_EQ(scan.amax, bf16_to_float(0x4123)) << count << " " << place;
      EXPECT_EQ(scan.first_non_finite, std::nullopt);
    }
  }
  EXPECT_EQ(scan_amax(Tensor(DType::kBF16, {0, 3}, device()).view()).amax, 0.0f);
}

TEST_P(DeviceScan, NamesTheFirstNonFiniteElement) {
  for (const int64_t count : {9, 200000, 3000001}) {
    std::vector<uint16_t> codes(static_cast<size_t>(count), 0x3F80);
    codes[1] = 0xC000;
    for (const int64_t last : {count - 1, count * 3 / 4, count / 2}) {
      codes[static_cast<size_t>(last)] = last % 2 == 0 ? 0x7FC0 : 0xFF80;
      const Tensor host = bf16_tensor(1, count, codes);
      const AmaxScan scan = scan_amax(to_device(host.view(), device()).view());
      EXPECT_EQ(scan.first_non_finite, last);
      EXPECT_EQ(scan.first_non_finite, scan_amax(host.view()).first_non_finite);
      EXPECT_EQ(scan.amax, 2.0f);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, DeviceScan, testing::Values(&kBf16Format));

}  // namespace
}  // namespace vernier::formats
