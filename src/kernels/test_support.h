// What the tests of the kernels share: random matrices, comparisons, thread counts.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <random>
#include <span>
#include <vector>

#include "tensor/matrix.h"

namespace vernier::kernels {

// Normal values. The same seed gives the same matrix.
inline Matrix random_matrix(int64_t rows, int64_t cols, uint32_t seed, float deviation = 1.0f) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  Matrix matrix(rows, cols);
  for (float& value : matrix.values()) value = normal(engine);
  return matrix;
}

inline std::vector<float> random_vector(int64_t size, uint32_t seed, float deviation = 1.0f) {
  const Matrix matrix = random_matrix(1, size, seed, deviation);
  return {matrix.values().begin(), matrix.values().end()};
}

inline Matrix matrix_of(int64_t rows, int64_t cols, std::initializer_list<float> values) {
  Matrix matrix(rows, cols);
  std::copy(values.begin(), values.end(), matrix.values().begin());
  return matrix;
}

inline std::vector<float> flat(ConstMatrixView view) {
  std::vector<float> values;
  for (int64_t row = 0; row < view.rows; ++row) {
    values.insert(values.end(), view.row(row).begin(), view.row(row).end());
  }
  return values;
}

// Every |found - expected| within `absolute`, or `relative` of the expected.
inline void expect_near(ConstMatrixView found, ConstMatrixView expected, double absolute,
                        double relative = 0) {
  ASSERT_EQ(found.rows, expected.rows);
  ASSERT_EQ(found.cols, expected.cols);
  for (int64_t row = 0; row < found.rows; ++row) {
    for (int64_t col = 0; col < found.cols; ++col) {
      const double want = expected.row(row)[col];
      ASSERT_NEAR(found.row(row)[col], want, std::max(absolute, relative * std::abs(want)))
          << "row " << row << ", column " << col;
    }
  }
}

inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

// Runs `op`, which returns its whole output, on one, two and three threads and expects the same
// bits.
inline void expect_thread_count_independent(const std::function<std::vector<float>()>& op) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const std::vector<float> alone = op();
  for (const int n_threads : {2, 3}) {
    omp_set_num_threads(n_threads);
    EXPECT_TRUE(same_bits(op(), alone)) << n_threads << " threads";
  }
  omp_set_num_threads(before);
}

// Tests of failed checks. OpenMP has started threads by then, which a plain fork would not survive.
class CheckDeathTest : public testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

// One unit roundoff of FP32: the relative error of one rounding.
inline constexpr double kRoundoff = 0x1p-24;

}  // namespace vernier::kernels
