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
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "formats/bf16.h"
#include "tensor/any_matrix.h"
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

// Where, and in which type of activations, a test of an op runs.
struct Target {
  const char* name;
  bool is_device;
  DType compute_dtype;
};
inline constexpr Target kTargets[] = {{"host", false, DType::kF32},
                                      {"cuda_f32", true, DType::kF32},
                                      {"cuda_bf16", true, DType::kBF16}};

// A test that runs on every target: TEST_P(XOnEveryTarget, ...), X derived from this. Skipped where
// there is no device.
class OnEveryTarget : public testing::TestWithParam<Target> {
 protected:
  void SetUp() override {
    if (!GetParam().is_device) return;
    if (n_devices() == 0) GTEST_SKIP() << "no CUDA device";
    device_ = open_device({.compute_dtype = GetParam().compute_dtype});
  }

  Device* device() const { return device_.get(); }
  bool is_bf16() const { return GetParam().compute_dtype == DType::kBF16; }
  // The relative error of one rounding to the type of activations; BF16 has 8 significant bits.
  double roundoff() const { return is_bf16() ? 0x1p-8 : 0x1p-24; }

  // What an activation of these values holds: rounded to BF16 or as they are.
  Matrix rounded(ConstMatrixView values) const {
    Matrix copy(values.rows, values.cols);
    for (int64_t row = 0; row < values.rows; ++row) {
      for (int64_t col = 0; col < values.cols; ++col) {
        const float value = values.row(row)[col];
        copy.view().row(row)[col] = is_bf16() ? formats::round_to_bf16(value) : value;
      }
    }
    return copy;
  }
  // The values there, in the type of activations.
  AnyMatrix activation(ConstMatrixView values) const {
    if (!is_bf16()) return to_device(values, device());
    AnyMatrix codes(values.rows, values.cols, DType::kBF16, nullptr);
    uint16_t* code = codes.view().as<uint16_t>();
    for (const float value : flat(values)) *code++ = formats::float_to_bf16(value);
    AnyMatrix there(values.rows, values.cols, DType::kBF16, device());
    copy_matrix(codes, there);
    return there;
  }
  AnyMatrix new_output(int64_t rows, int64_t cols) const {
    return new_activation(rows, cols, device());
  }
  template <class T>
  Vector<T> vector(const std::vector<T>& values) const {
    return Vector<T>(std::span<const T>(values), device());
  }

 private:
  std::unique_ptr<Device> device_;
};

#define VERNIER_ON_EVERY_TARGET(Suite)                                  \
  INSTANTIATE_TEST_SUITE_P(Targets, Suite, testing::ValuesIn(kTargets), \
                           [](const auto& info) { return std::string(info.param.name); })

// One unit roundoff of FP32: the relative error of one rounding.
inline constexpr double kRoundoff = 0x1p-24;

}  // namespace vernier::kernels
