// What the tests of gradients share: central differences in double of a loss that the test writes.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <vector>

#include "kernels/test_support.h"

namespace vernier::kernels {

using Doubles = std::vector<double>;

inline Doubles doubles(std::span<const float> values) { return {values.begin(), values.end()}; }
inline Doubles doubles(ConstMatrixView matrix) { return doubles(flat(matrix)); }

// sum_i a_i b_i.
inline double dot_product(const Doubles& a, const Doubles& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Expects found[i] to be d loss / d values[i]. Steps of 1e-5 leave an error of 1e-10 from the third
// derivative and 1e-10 from rounding a loss of size 10; the rest of the bound, relative to the
// largest of the gradient, is `found`'s rounding to FP32.
inline void expect_gradient(std::span<const float> found, Doubles values,
                            const std::function<double(const Doubles&)>& loss) {
  ASSERT_EQ(found.size(), values.size());
  constexpr double kStep = 1e-5;
  Doubles expected;
  double largest = 0;
  for (double& value : values) {
    const double before = value;
    value = before + kStep;
    const double above = loss(values);
    value = before - kStep;
    expected.push_back((above - loss(values)) / (2 * kStep));
    value = before;
    largest = std::max(largest, std::abs(expected.back()));
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(found[i], expected[i], 1e-6 * std::max(1.0, largest)) << "element " << i;
  }
}

// The largest magnitude.
inline double largest_of(ConstMatrixView matrix) {
  double largest = 0;
  for (const float value : flat(matrix)) largest = std::max(largest, std::abs(double{value}));
  return largest;
}

}  // namespace vernier::kernels
