// What inputs of a linear may go through on their way into codes, so that it costs no pass of its
// own.
#pragma once

#include "formats/host_device.h"

namespace vernier::formats {

enum class InputMap {
  kNone,
  kSquaredRelu,  // max(x, 0)^2
};

// max(x, 0)^2; a NaN stays one.
VERNIER_HD constexpr float squared_relu(float x) {
  const float positive = x < 0.0f ? 0.0f : x;
  return positive * positive;
}

}  // namespace vernier::formats
