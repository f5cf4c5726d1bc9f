// The searches against the plain loops that define them.
#include "formats/nvfp4_search.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "formats/nvfp4.h"
#include "formats/test_weights.h"

namespace vernier::formats {
namespace {

constexpr Arithmetic kBoth[] = {Arithmetic::kCpu, Arithmetic::kCuda};
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<uint16_t> codes_of(const std::vector<float>& values) {
  std::vector<uint16_t> codes;
  for (const float value : values) codes.push_back(float_to_bf16(value));
  return codes;
}

int64_t n_blocks_of(const std::vector<uint16_t>& w) {
  return static_cast<int64_t>(w.size()) / kNvfp4Block;
}

std::vector<float> magnitudes_of(const std::vector<uint16_t>& w, int64_t block) {
  std::vector<float> magnitudes;
  for (int64_t i = 0; i < kNvfp4Block; ++i) {
    magnitudes.push_back(std::fabs(bf16_to_float(w[static_cast<size_t>(block * kNvfp4Block + i)])));
  }
  return magnitudes;
}

float amax_of(const std::vector<uint16_t>& w) {
  float amax = 0;
  for (const uint16_t code : w) amax = std::max(amax, std::fabs(bf16_to_float(code)));
  return storable_amax(amax, 2688);
}

// Blocks of many kinds: Gaussian, heavy-tailed, tiny beside the others, constant, zero, one
// outlier, few distinct values, and exact multiples of small numbers, which are full of ties.
std::vector<uint16_t> blocks_of_many_kinds(uint64_t seed) {
  std::vector<float> values;
  const auto add = [&](int n_blocks, auto value) {
    for (int i = 0; i < n_blocks * kNvfp4Block; ++i) {
      values.push_back(static_cast<float>(value(static_cast<uint64_t>(i))));
    }
  };
  const auto uniform = [&](uint32_t stream, uint64_t i) { return random_uniform(seed, stream, i); };
  add(150, [&](uint64_t i) { return 0.02 * gaussian(seed, i); });
  add(150, [&](uint64_t i) { return 0.01 * gaussian(seed + 1, i) / (0.02 + uniform(3, i)); });
  add(60, [&](uint64_t i) {
    return 0.02 * gaussian(seed + 2, i) * std::exp2(-30 * uniform(4, i / 16));
  });
  add(40, [&](uint64_t i) { return std::exp2(-12 * uniform(5, i / 16)); });
  add(3, [&](uint64_t) { return 0.0; });
  add(40, [&](uint64_t i) { return i % 16 == i / 16 % 16 ? uniform(6, i) : 1e-4 * uniform(7, i); });
  add(40, [&](uint64_t i) { return i % 16 == 5 ? std::exp2(-14 * uniform(6, i)) : 0.0; });
  add(60, [&](uint64_t i) { return std::floor(9 * uniform(8, i)) / 64; });
  add(60, [&](uint64_t i) {
    return std::floor(3 * uniform(9, i)) * std::exp2(-9 * uniform(10, i / 16));
  });
  return codes_of(values);
}

TEST(Nvfp4Sweep, TryingAllCodesIsTheDefinition) {
  const std::vector<uint16_t> w = blocks_of_many_kinds(1);
  const Nvfp4SweepTable table(amax_of(w), Arithmetic::kCuda);
  std::vector<uint8_t> expected;
  for (int64_t block = 0; block < n_blocks_of(w); ++block) {
    const std::vector<float> magnitudes = magnitudes_of(w, block);
    float best = kInfinity;
    uint8_t winner = 1;
    for (int v = 1; v <= kE4m3MaxCode; ++v) {
      const auto code = static_cast<uint8_t>(v);
      const float scale = nvfp4_sweep_scale(code, amax_of(w), Arithmetic::kCuda);
      const float loss = nvfp4_block_loss(magnitudes.data(), scale);
      if (loss < best) {
        best = loss;
        winner = code;
      }
    }
    expected.push_back(winner);
  }
  for_each_instruction_set([&] {
    std::vector<uint8_t> scales(expected.size());
    nvfp4_sweep_all(w.data(), n_blocks_of(w), table, scales.data());
    EXPECT_EQ(scales, expected);
  });
}

// Equal to trying all codes, for many global amaxes: the tensor's own and larger ones, powers of
// two (ties), and multiples of 21 / 16 (whose scales are short numbers: ties again).
TEST(Nvfp4Sweep, SkippingCodesChangesNothing) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    const std::vector<uint16_t> w = blocks_of_many_kinds(seed);
    std::vector<float> amaxes = {amax_of(w), 1.3125f * 16, 8.0f, 1e4f};
    for (uint64_t i = 0; i < 6; ++i) {
      amaxes.push_back(amax_of(w) *
                       static_cast<float>(std::exp2(10 * random_uniform(seed, 20, i))));
    }
    for (const float ga : amaxes) {
      for (const Arithmetic arithmetic : kBoth) {
        const Nvfp4SweepTable table(ga, arithmetic);
        std::vector<uint8_t> expected(static_cast<size_t>(n_blocks_of(w)));
        nvfp4_sweep_all(w.data(), n_blocks_of(w), table, expected.data());
        for_each_instruction_set([&] {
          std::vector<uint8_t> scales(expected.size());
          nvfp4_sweep(w.data(), n_blocks_of(w), table, scales.data());
          EXPECT_EQ(scales, expected) << ga;
        });
      }
    }
  }
}

// Far from 1, where sums of squares underflow or overflow.
TEST(Nvfp4Sweep, SkippingCodesChangesNothingAtTheExtremes) {
  for (const float magnitude : {1e-38f, 1e-30f, 1e-19f, 1e15f, 1e19f, 1e30f}) {
    std::vector<float> values = gaussian_values(16 * 64, 4, 1.0);
    for (float& value : values) value *= magnitude;
    const std::vector<uint16_t> w = codes_of(values);
    const Nvfp4SweepTable table(amax_of(w), Arithmetic::kCuda);
    std::vector<uint8_t> expected(64);
    std::vector<uint8_t> scales(64);
    nvfp4_sweep_all(w.data(), 64, table, expected.data());
    nvfp4_sweep(w.data(), 64, table, scales.data());
    EXPECT_EQ(scales, expected) << magnitude;
  }
}

void expect_multipliers(const std::vector<uint16_t>& w, const ScaleRule& rule, float ga,
                        Arithmetic arithmetic) {
  const float peak = nvfp4_peak(rule.four_over_six);
  const Nvfp4Scaling scaling = {.ga = ga,
                                .peak = peak,
                                .global_scale = nvfp4_global_scale(ga, peak, arithmetic),
                                .is_static = true,
                                .arithmetic = arithmetic};
  const std::vector<float> multipliers = multiplier_grid(rule);
  std::vector<uint8_t> expected;
  for (int64_t block = 0; block < n_blocks_of(w); ++block) {
    const std::vector<float> magnitudes = magnitudes_of(w, block);
    const float ba = *std::max_element(magnitudes.begin(), magnitudes.end());
    float best = kInfinity;
    float best_amax = 0;
    for (const float multiplier : multipliers) {
      const float scale = nvfp4_candidate_scale(ba * multiplier, ga, peak, arithmetic);
      const float loss = nvfp4_block_loss(magnitudes.data(), scale);
      if (loss < best) {
        best = loss;
        best_amax = ba * multiplier;
      }
    }
    expected.push_back(nvfp4_static_block_scale(best_amax, ga, peak, arithmetic));
  }
  for_each_instruction_set([&] {
    std::vector<uint8_t> scales(expected.size());
    nvfp4_search_multipliers(w.data(), n_blocks_of(w), scaling, multipliers, scales.data());
    EXPECT_EQ(scales, expected) << ga;
  });
}

TEST(Nvfp4Multipliers, SearchIsTheDefinition) {
  const std::vector<uint16_t> w = blocks_of_many_kinds(3);
  for (const Arithmetic arithmetic : kBoth) {
    for (const float ga : {amax_of(w), 4 * amax_of(w)}) {
      expect_multipliers(w, {}, ga, arithmetic);
      expect_multipliers(w, {.four_over_six = true, .start = 1, .stop = 1.5f, .step = 0.5f}, ga,
                         arithmetic);
      expect_multipliers(w, {.start = 0.5f, .stop = 1, .step = 0.05f}, ga, arithmetic);
    }
  }
}

}  // namespace
}  // namespace vernier::formats
