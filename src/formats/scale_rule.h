// How a quantized weight's scales are chosen, and whose divisions the stored scales mirror.
#pragma once

#include <vector>

#include "formats/host_device.h"

namespace vernier::formats {

// Which platform's arithmetic the exported scales repeat. PyTorch on CUDA divides by a constant c
// as a multiplication by fp32(1/c); on a CPU it divides. Half of the FP32 scales differ by one unit
// in the last place, so byte-equality with a released checkpoint needs its platform's form.
enum class Arithmetic { kCpu, kCuda };

enum class ScaleMethod {
  kMax,          // the largest |w| maps to the largest code
  kMultipliers,  // the best of a grid of multiples of amax, by squared error
  kFp8Sweep,     // NVFP4: the best of all 126 positive E4M3 block scales, by squared error
};

// A rule of scales. For NVFP4 the two paths differ in bytes: dynamic block scales are computed from
// the packed weight itself, static ones from a calibrated amax per block (docs/formats.md,
// "NVFP4").
struct ScaleRule {
  ScaleMethod method = ScaleMethod::kMax;
  bool is_static = false;      // NVFP4 block scales take the static path; the searches need it
  bool four_over_six = false;  // NVFP4: block scales are normalized to 256 instead of 448
  // kMultipliers: the grid linspace(start, stop, ceil((stop - start) / step) + 1).
  float start = 0.25f;
  float stop = 4.0f;
  float step = 0.1f;

  bool operator==(const ScaleRule&) const = default;
};

// The FP32 multipliers of the rule's grid, in the order in which ties are broken. Throws
// InvalidArgument when start, stop and step do not make a grid of positive multipliers.
std::vector<float> multiplier_grid(const ScaleRule& rule);

// amax / divisor as the given platform computes it in FP32.
VERNIER_HD constexpr float scale_from_amax(float amax, float divisor, Arithmetic arithmetic) {
  return arithmetic == Arithmetic::kCuda ? amax * (1.0f / divisor) : amax / divisor;
}

// The amax that a stored scale of a weight is derived from: a weight of zeros gets `divisor`, hence
// the scale 1, and one so small that its scale would be subnormal gets the least amax with a normal
// scale. No scale is ever zero.
VERNIER_HD constexpr float storable_amax(float amax, float divisor) {
  if (amax == 0) return divisor;
  const float least = divisor * 0x1p-125f;
  return amax < least ? least : amax;
}

}  // namespace vernier::formats
