// The inner loop of measure_distortion, vectorized. One thread.
#pragma once

#include <array>
#include <cstdint>

namespace vernier::formats {

// Partial sums by element index mod 16, whatever the vector width, so that results do not depend on
// it.
struct DistortionSums {
  std::array<double, 16> signal = {};
  std::array<double, 16> noise = {};
  int64_t n_saturated = 0;
  int64_t n_flushed = 0;
};

// Adds `count` weights in BF16 and what they decode to; `limit` is the largest value their scale
// reaches.
void add_distortion(const uint16_t* w, const float* decoded, int64_t count, float limit,
                    DistortionSums& sums);

}  // namespace vernier::formats
