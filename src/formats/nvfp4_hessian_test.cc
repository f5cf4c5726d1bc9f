// The Hessian-weighted search against its definition, the plain sweep and a reference in double
// precision; the device against the host, bit for bit.
#include "formats/nvfp4_hessian.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "formats/nvfp4_search.h"
#include "formats/test_weights.h"

namespace vernier::formats {
namespace {

constexpr Arithmetic kBoth[] = {Arithmetic::kCpu, Arithmetic::kCuda};
constexpr int kBlock = static_cast<int>(kNvfp4Block);

// One Hessian a block of inputs, from `n_samples` inputs with a common part: symmetric, positive
// semi-definite, singular where there are fewer than 16.
std::vector<float> random_hessians(int64_t k, int n_samples, uint64_t seed) {
  std::vector<float> hessians;
  for (int64_t block = 0; block < k / kBlock; ++block) {
    std::vector<double> x;
    for (int sample = 0; sample < n_samples; ++sample) {
      const uint64_t at = static_cast<uint64_t>(block * n_samples + sample) * 64;
      for (uint64_t i = 0; i < 16; ++i) {
        x.push_back(gaussian(seed, at + i) * (1 + static_cast<double>(i % 5)) +
                    2 * gaussian(seed, at + 32));
      }
    }
    for (size_t i = 0; i < 16; ++i) {
      for (size_t j = 0; j < 16; ++j) {
        double sum = 0;
        for (size_t sample = 0; sample < x.size(); sample += 16)
          sum += x[sample + i] * x[sample + j];
        hessians.push_back(static_cast<float>(sum / n_samples));
      }
    }
  }
  return hessians;
}

std::vector<float> identities(int64_t k) {
  std::vector<float> hessians(static_cast<size_t>(k * kBlock));
  for (int64_t i = 0; i < k; ++i) hessians[static_cast<size_t>(i * kBlock + i % kBlock)] = 1;
  return hessians;
}

// Rows of many kinds: Gaussian, heavy-tailed, tiny beside the others, multiples of a small number
// (full of ties), zeros of both signs, blocks of zeros.
Tensor rows_of_many_kinds(int64_t n, int64_t k, uint64_t seed) {
  std::vector<float> values;
  for (int64_t i = 0; i < n * k; ++i) {
    const auto at = static_cast<uint64_t>(i);
    const double normal = gaussian(seed, at), uniform = random_uniform(seed, 3, at);
    const int64_t kind = (i / k + i % k / kBlock) % 6;
    const double value = kind == 0   ? 0.02 * normal
                         : kind == 1 ? 0.01 * normal / (0.01 + uniform)
                         : kind == 2
                             ? 0.02 * normal * std::exp2(-20 * random_uniform(seed, 4, at / 16))
                         : kind == 3 ? std::floor(9 * uniform - 4) / 64
                         : kind == 4 ? (uniform < 0.5 ? 0.1 * normal : -0.0)
                                     : 0.0;
    values.push_back(static_cast<float>(value));
  }
  return bf16_tensor(n, k, values);
}

float amax_of(const Tensor& weight) {
  float amax = 0;
  for (const uint16_t code : weight.as<uint16_t>()) {
    amax = std::max(amax, std::fabs(bf16_to_float(code)));
  }
  return storable_amax(amax, 2688);
}

std::vector<uint8_t> choose(const Tensor& weight, const std::vector<float>& hessians, float ga,
                            Arithmetic arithmetic) {
  std::vector<uint8_t> scales(static_cast<size_t>(weight.size() / kBlock));
  nvfp4_choose_hessian_scales(weight.view(), hessians, ga, arithmetic, scales.data());
  return scales;
}

// The weights and the triangle of one block, the block-th in the order of scales.
struct Block {
  Block(const Tensor& weight, const std::vector<float>& hessians, int64_t block) {
    for (int i = 0; i < kBlock; ++i) {
      w[i] = bf16_to_float(weight.as<uint16_t>()[static_cast<size_t>(block * kBlock + i)]);
    }
    const int64_t n_input_blocks = std::ssize(hessians) / kNvfp4HessianElems;
    const float* const hessian = hessians.data() + block % n_input_blocks * kNvfp4HessianElems;
    for (int i = 0; i < kBlock; ++i) {
      for (int j = i; j < kBlock; ++j) {
        triangle[nvfp4_triangle_index(i, j)] = nvfp4_triangle_elem(hessian, i, j);
      }
    }
  }
  float w[kBlock];
  float triangle[kNvfp4TriangleElems];
};

TEST(Nvfp4Hessian, TheIdentityIsThePlainSweep) {
  for (const int64_t k : {16, 48}) {
    const Tensor weight = rows_of_many_kinds(61, k, 1);
    for (const Arithmetic arithmetic : kBoth) {
      const Nvfp4SweepTable table(amax_of(weight), arithmetic);
      std::vector<uint8_t> expected(static_cast<size_t>(weight.size() / kBlock));
      nvfp4_sweep_all(weight.as<uint16_t>().data(), std::ssize(expected), table, expected.data());
      const std::vector<float> zeros(static_cast<size_t>(k * kBlock));
      for_each_instruction_set([&] {
        EXPECT_EQ(choose(weight, identities(k), amax_of(weight), arithmetic), expected);
        EXPECT_EQ(choose(weight, zeros, amax_of(weight), arithmetic), expected);
      });
    }
  }
}

// ga = 6 x 448 makes a code's scale its own value. By squared error the weights 1 and 2.5 get 0.625
// (1.5 and 4 of it; errors 1/16 and 0). If both inputs are always equal, only the sum 3.5 counts:
// 0.4375 gives it exactly (2 and 6 of it; errors 1/8 and -1/8). So does twice that, a higher code;
// with 12/32 the sum is 9 times that, 3.375, and with 13/32 it is 3.25.
TEST(Nvfp4Hessian, ErrorsOfEqualInputsCancel) {
  std::vector<float> values(16);
  values[0] = 1;
  values[1] = 2.5f;
  std::vector<float> hessian(256);
  const Tensor weight = bf16_tensor(1, 16, values);
  EXPECT_THAT(choose(weight, hessian, 2688, Arithmetic::kCpu), testing::ElementsAre(0x32));
  hessian[0] = hessian[1] = hessian[16] = hessian[17] = 1;
  EXPECT_THAT(choose(weight, hessian, 2688, Arithmetic::kCpu), testing::ElementsAre(0x2E));
  // Opposite inputs and weights are the same case.
  values[1] = -2.5f;
  hessian[1] = hessian[16] = -1;
  EXPECT_THAT(choose(bf16_tensor(1, 16, values), hessian, 2688, Arithmetic::kCpu),
              testing::ElementsAre(0x2E));
}

TEST(Nvfp4Hessian, IsTheDefinition) {
  const Tensor weight = rows_of_many_kinds(31, 48, 2);
  const std::vector<float> hessians = random_hessians(48, 24, 3);
  for (const float ga : {amax_of(weight), 40.0f}) {
    for (const Arithmetic arithmetic : kBoth) {
      std::vector<uint8_t> expected;
      for (int64_t index = 0; index < weight.size() / kBlock; ++index) {
        const Block block(weight, hessians, index);
        float least = std::numeric_limits<float>::infinity();
        uint8_t best = 1;
        for (uint8_t code = 1; code <= kE4m3MaxCode; ++code) {
          const float scale = nvfp4_sweep_scale(code, ga, arithmetic);
          const float loss = nvfp4_hessian_loss(block.w, block.triangle, scale);
          if (loss < least) {
            least = loss;
            best = code;
          }
        }
        expected.push_back(best);
      }
      for_each_instruction_set(
          [&] { EXPECT_EQ(choose(weight, hessians, ga, arithmetic), expected); });
    }
  }
}

// The loss in double precision, and a bound on what FP32 makes of it: a term goes through at most 2
// products, 15 sums of t and 4 of the tree, 21 roundings of 2^-24.
struct ExactLoss {
  double loss = 0;
  double error = 0;
};
ExactLoss exact_loss(const Block& block, float scale) {
  double dw[kBlock];
  for (int i = 0; i < kBlock; ++i) {
    const float magnitude = std::fabs(block.w[i]);
    const float error = magnitude - nvfp4_fake_quant(magnitude, scale);
    dw[i] = block.w[i] < 0 ? -error : error;
  }
  ExactLoss exact;
  for (int i = 0; i < kBlock; ++i) {
    for (int j = i; j < kBlock; ++j) {
      const double term = dw[i] * dw[j] * block.triangle[nvfp4_triangle_index(i, j)];
      exact.loss += term;
      exact.error += std::fabs(term) * 22 * 0x1p-24;
    }
  }
  return exact;
}

TEST(Nvfp4Hessian, IsTheLeastLossWithinRounding) {
  const Tensor weight = rows_of_many_kinds(41, 48, 4);
  const float ga = amax_of(weight);
  for (const int n_samples : {3, 16, 200}) {
    const std::vector<float> hessians = random_hessians(48, n_samples, 5);
    const std::vector<uint8_t> scales = choose(weight, hessians, ga, Arithmetic::kCuda);
    for (int64_t index = 0; index < std::ssize(scales); ++index) {
      const Block block(weight, hessians, index);
      const uint8_t code = scales[static_cast<size_t>(index)];
      const ExactLoss ours = exact_loss(block, nvfp4_sweep_scale(code, ga, Arithmetic::kCuda));
      for (uint8_t other = 1; other <= kE4m3MaxCode; ++other) {
        const ExactLoss theirs = exact_loss(block, nvfp4_sweep_scale(other, ga, Arithmetic::kCuda));
        ASSERT_LE(ours.loss - ours.error, theirs.loss + theirs.error)
            << "block " << index << ", codes " << int{code} << " and " << int{other};
      }
    }
  }
}

TEST(Nvfp4Hessian, NothingToDo) {
  EXPECT_THAT(choose(bf16_tensor(0, 32, std::vector<float>()), identities(32), 1, Arithmetic::kCpu),
              testing::IsEmpty());
  EXPECT_THAT(choose(bf16_tensor(3, 0, std::vector<float>()), {}, 1, Arithmetic::kCpu),
              testing::IsEmpty());
}

class Nvfp4HessianOnDevice : public testing::Test {
 protected:
  void SetUp() override {
    if (n_devices() == 0) GTEST_SKIP() << "no CUDA device";
    device_ = open_device({});
  }
  void expect_same(const Tensor& weight, const std::vector<float>& hessians, float ga) const {
    const Tensor there = to_device(weight.view(), device_.get());
    const Vector<float> hessians_there(std::span<const float>(hessians), device_.get());
    for (const Arithmetic arithmetic : kBoth) {
      const std::vector<uint8_t> expected = choose(weight, hessians, ga, arithmetic);
      Tensor scales(DType::kU8, {std::ssize(expected)}, device_.get());
      nvfp4_choose_hessian_scales(there.view(), hessians_there, ga, arithmetic,
                                  scales.as<uint8_t>().data());
      const Tensor found = to_device(scales.view(), nullptr);
      const auto bytes = found.as<uint8_t>();
      EXPECT_EQ(std::vector<uint8_t>(bytes.begin(), bytes.end()), expected)
          << weight.shape()[0] << " x " << weight.shape()[1] << ", ga " << ga;
    }
  }

 private:
  std::unique_ptr<Device> device_;
};

TEST_F(Nvfp4HessianOnDevice, EqualsTheHost) {
  for (const int64_t k : {16, 48}) {
    for (const int64_t n : {1, 127, 128, 301}) {
      const Tensor weight = rows_of_many_kinds(n, k, 6);
      std::vector<float> hessians = random_hessians(k, 24, 7);
      expect_same(weight, hessians, amax_of(weight));
      expect_same(weight, hessians, 300.0f);
      expect_same(weight, identities(k), amax_of(weight));
      std::fill_n(hessians.end() - kNvfp4HessianElems, kNvfp4HessianElems, 0.0f);
      expect_same(weight, hessians, amax_of(weight));
    }
  }
}

// Singular Hessians, whose losses are nearly zero and may round below it; weights at the ends of
// FP32's range, where quotients take divisions.
TEST_F(Nvfp4HessianOnDevice, EqualsTheHostAtExtremes) {
  const Tensor weight = rows_of_many_kinds(65, 48, 8);
  expect_same(weight, random_hessians(48, 2, 9), amax_of(weight));
  for (const double sigma : {0x1p-110, 0x1p55, 0x1p100}) {
    const Tensor extreme = gaussian_tensor(33, 32, 10, sigma);
    expect_same(extreme, random_hessians(32, 24, 11), amax_of(extreme));
  }
  expect_same(bf16_tensor(2, 16, std::vector<float>(32)), identities(16), 2688);
}

TEST_F(Nvfp4HessianOnDevice, NothingToDo) {
  expect_same(bf16_tensor(0, 32, std::vector<float>()), identities(32), 1);
  expect_same(bf16_tensor(3, 0, std::vector<float>()), {}, 1);
}

}  // namespace
}  // namespace vernier::formats
