// NVFP4: E2M1 codes in blocks of 16 along the input axis, an E4M3 scale per block, an FP32 scale
// per tensor. These are the definitions, one pure function per step; the bulk code, the searches
// and the CUDA kernels compute exactly these. Formulas are FP32, rounded to nearest at every step;
//   ga  amax of the tensor (or of the tensors that share a global scale), never 0 (storable_amax),
//   ba  amax of the block,
//   F   the block scale that a block with ba = ga gets: 448, four-over-six 256.
#pragma once

#include <cstdint>

#include "formats/e2m1.h"
#include "formats/e4m3.h"
#include "formats/host_device.h"
#include "formats/scale_rule.h"

namespace vernier::formats {

inline constexpr int64_t kNvfp4Block = 16;
// Activations are normalized to 448 whatever the weights' F.
inline constexpr float kNvfp4InputDivisor = kE2m1Max * kE4m3Max;

VERNIER_HD constexpr float nvfp4_peak(bool four_over_six) {
  return four_over_six ? 256.0f : kE4m3Max;
}

// weight_scale_2 = ga / (6 F)
// Source: Model Optimizer, qtensor/nvfp4_tensor.py.
VERNIER_HD constexpr float nvfp4_global_scale(float ga, float peak, Arithmetic arithmetic) {
  return scale_from_amax(ga, kE2m1Max * peak, arithmetic);
}

// A block scale is never stored as zero or NaN: ratios are clamped to the positive finite codes.
VERNIER_HD constexpr uint8_t nvfp4_store_block_scale(float ratio) {
  return float_to_e4m3(ratio < kE4m3Min ? kE4m3Min : ratio > kE4m3Max ? kE4m3Max : ratio);
}

// Dynamic path: e4m3(clamp(ba / (6 global_scale), 2^-9, 448)); a block of zeros stores 1.0 (0x38).
// Source: Model Optimizer, NVFP4QTensor.get_weights_scaling_factor.
VERNIER_HD constexpr uint8_t nvfp4_dynamic_block_scale(float ba, float global_scale) {
  const float ratio = ba / (kE2m1Max * global_scale);
  return nvfp4_store_block_scale(ratio == 0 ? 1.0f : ratio);
}

// Static path: e4m3(clamp((p F) / (ga / 6), 2^-9, 448)) with p = ba / 6, in a block of zeros 1.
// Source: Model Optimizer, NVFP4QTensor.get_weights_scaling_factor_from_quantizer.
VERNIER_HD constexpr uint8_t nvfp4_static_block_scale(float ba, float ga, float peak,
                                                      Arithmetic arithmetic) {
  const float p = scale_from_amax(ba, kE2m1Max, arithmetic);
  const float whole = scale_from_amax(ga, kE2m1Max, arithmetic);
  return nvfp4_store_block_scale((p == 0 ? 1.0f : p) * peak / whole);
}

// What the block scales of one weight are computed from.
struct Nvfp4Scaling {
  float ga = 0;
  float peak = kE4m3Max;  // F
  float global_scale = 0;
  bool is_static = false;
  Arithmetic arithmetic = Arithmetic::kCuda;
};
VERNIER_HD constexpr uint8_t nvfp4_block_scale(float ba, const Nvfp4Scaling& scaling) {
  if (!scaling.is_static) return nvfp4_dynamic_block_scale(ba, scaling.global_scale);
  return nvfp4_static_block_scale(ba, scaling.ga, scaling.peak, scaling.arithmetic);
}

// The weight that a code of 1.0 stands for, block_scale * global_scale. A weight w packs to
// e2m1(w / unit), a true division; a code unpacks to its value times unit.
VERNIER_HD constexpr float nvfp4_unit(uint8_t block_scale, float global_scale) {
  return e4m3_to_float(block_scale) * global_scale;
}

// A multiplier's scale for a block whose candidate amax is a: e4m3(min(a/6 up, 448)) (1 / up), with
//   up = 448 / A,  A = (ga (448 / F)) / 6, or 1 when A <= 2^-24.
// May be zero: the block then becomes zero.
// Source: Model Optimizer, kernels/quantization/gemm/fp4_kernel.py (compute_fp4_scales).
VERNIER_HD constexpr float nvfp4_candidate_up(float ga, float peak, Arithmetic arithmetic) {
  const float whole = scale_from_amax(ga * (kE4m3Max / peak), kE2m1Max, arithmetic);
  return kE4m3Max / (whole <= 0x1p-24f ? 1.0f : whole);
}
VERNIER_HD constexpr float nvfp4_candidate_scale(float a, float ga, float peak,
                                                 Arithmetic arithmetic) {
  const float up = nvfp4_candidate_up(ga, peak, arithmetic);
  const float scale = scale_from_amax(a, kE2m1Max, arithmetic);
  return e4m3_to_float(float_to_e4m3_saturating(scale * up)) * (1.0f / up);
}

// The sweep's scale for E4M3 code v. It stands for a block amax of ga c with c = v / 448, whose
// static block scale is v again, so the winning code is stored as it is.
//   kCuda: (c ga) / 6, the fused kernel's;
//   kCpu:  v (1 / up), up = 448 / (ga / 6), the multipliers' scale for that amax: E4M3 rounding
//   finds v.
// They differ in a last place, which decides near-ties.
// Source: Model Optimizer, calib/mse.py (NVFP4MSECalibrator) and its nvfp4_fp8_scale_sweep kernel.
VERNIER_HD constexpr float nvfp4_sweep_scale(uint8_t v, float ga, Arithmetic arithmetic) {
  if (arithmetic == Arithmetic::kCuda) {
    const float c = scale_from_amax(e4m3_to_float(v), kE4m3Max, arithmetic);
    return scale_from_amax(c * ga, kE2m1Max, arithmetic);
  }
  const float up = kE4m3Max / scale_from_amax(ga, kE2m1Max, arithmetic);
  return e4m3_to_float(v) * (1.0f / up);
}

// |w| as a search rounds it: e2m1(|w| / scale) scale.
VERNIER_HD constexpr float nvfp4_fake_quant(float magnitude, float scale) {
  if (scale == 0) return 0;
  return e2m1_to_float(float_to_e2m1(magnitude / scale)) * scale;
}

// What a search minimizes: the squared error of a block, given its magnitudes. Bytes depend on the
// order of this sum, so it is fixed: neighbours are added in pairs, then pairs of pairs, and so on.
VERNIER_HD constexpr float nvfp4_block_loss(const float* magnitudes, float scale) {
  float sum[kNvfp4Block] = {};
  for (int i = 0; i < kNvfp4Block; ++i) {
    const float error = magnitudes[i] - nvfp4_fake_quant(magnitudes[i], scale);
    sum[i] = error * error;
  }
  for (int width = 1; width < kNvfp4Block; width *= 2) {
    for (int i = 0; i < kNvfp4Block; i += 2 * width) sum[i] += sum[i + width];
  }
  return sum[0];
}

// The block scale of activations: e4m3(min(ba / (6 input_scale), 448)), zero for a block that
// small. Deployment kernels compute this; simulators replace tiny scales by 1, which no server
// does.
VERNIER_HD constexpr uint8_t nvfp4_input_block_scale(float ba, float input_scale) {
  return float_to_e4m3_saturating(ba / (kE2m1Max * input_scale));
}

}  // namespace vernier::formats
