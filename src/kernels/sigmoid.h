// The sigmoid with its complement, and SiLU with its slope, for gradients on the host and on
// devices.
#pragma once

#include <cmath>

#include "formats/host_device.h"

namespace vernier::kernels {

struct Sigmoid {
  float value;
  float complement;  // 1 - value
};

// Each within 6 roundings of itself: from exp(-|x|) <= 1, which neither overflows nor cancels.
VERNIER_HD inline Sigmoid sigmoid_of(float x) {
  const float e = std::exp(-std::fabs(x));
  const float larger = 1.0f / (1.0f + e);
  const float smaller = e * larger;
  return x < 0.0f ? Sigmoid{smaller, larger} : Sigmoid{larger, smaller};
}

struct Silu {
  float value;
  float slope;  // s (1 + x (1 - s)), s = sigmoid(x); at most 1.1
};

VERNIER_HD inline Silu silu_of(float x) {
  const Sigmoid s = sigmoid_of(x);
  return {x * s.value, s.value * (1.0f + x * s.complement)};
}

}  // namespace vernier::kernels
