// Weights for tests: BF16 tensors from numbers, and random ones of several shapes of distribution.
#pragma once

#include <hwy/targets.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/random.h"
#include "formats/bf16.h"
#include "formats/scale_rule.h"
#include "tensor/tensor.h"

namespace vernier::formats {

inline constexpr ScaleRule kFourOverSix = {.method = ScaleMethod::kMultipliers,
                                           .is_static = true,
                                           .four_over_six = true,
                                           .start = 1.0f,
                                           .stop = 1.5f,
                                           .step = 0.5f};

inline Tensor bf16_tensor(int64_t n, int64_t k, const std::vector<uint16_t>& codes) {
  Tensor tensor(DType::kBF16, {n, k});
  std::copy(codes.begin(), codes.end(), tensor.as<uint16_t>().begin());
  return tensor;
}

inline Tensor bf16_tensor(int64_t n, int64_t k, const std::vector<float>& values) {
  std::vector<uint16_t> codes;
  for (const float value : values) codes.push_back(float_to_bf16(value));
  return bf16_tensor(n, k, codes);
}

inline double gaussian(uint64_t seed, uint64_t position) {
  const double u = 1 - random_uniform(seed, 1, position);
  return std::sqrt(-2 * std::log(u)) *
         std::cos(6.283185307179586 * random_uniform(seed, 2, position));
}

inline std::vector<float> gaussian_values(int64_t count, uint64_t seed, double sigma = 0.02) {
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) {
    values.push_back(static_cast<float>(sigma * gaussian(seed, static_cast<uint64_t>(i))));
  }
  return values;
}

inline Tensor gaussian_tensor(int64_t n, int64_t k, uint64_t seed, double sigma = 0.02) {
  return bf16_tensor(n, k, gaussian_values(n * k, seed, sigma));
}

// All finite BF16 values, 65280 of them.
inline std::vector<uint16_t> all_finite_bf16() {
  std::vector<uint16_t> codes;
  for (uint32_t code = 0; code < 0x10000; ++code) {
    if ((code & 0x7FFF) < 0x7F80) codes.push_back(static_cast<uint16_t>(code));
  }
  return codes;
}

// Runs `body` with every instruction set that this machine and build have, the baseline included.
inline void for_each_instruction_set(const std::function<void()>& body) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace vernier::formats
