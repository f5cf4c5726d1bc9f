// FP8 per tensor: E4M3 codes and one FP32 scale. The definitions, as in nvfp4.h.
#pragma once

#include "formats/bf16.h"
#include "formats/e4m3.h"
#include "formats/host_device.h"
#include "formats/scale_rule.h"

namespace vernier::formats {

// What weights are divided by. The scale is amax / 448; on CUDA, PyTorch's type promotion rounds
// this scalar to the weight's BF16 before it divides, on a CPU it does not. Source: Model
// Optimizer, export/quant_utils.py (to_quantized_weight).
VERNIER_HD constexpr float fp8_weight_divisor(float scale, Arithmetic arithmetic) {
  return arithmetic == Arithmetic::kCuda ? round_to_bf16(scale) : scale;
}

// e4m3(bf16(w / divisor)): the quotient is rounded to BF16 first. With the tensor's own amax it
// stays within 448; where a search chose a smaller one it saturates.
VERNIER_HD constexpr uint8_t fp8_weight_code(float w, float divisor) {
  return float_to_e4m3_saturating(round_to_bf16(w / divisor));
}

// A weight as the search for multipliers rounds it for a candidate amax a:
//   e4m3(clamp(w up, +-448)) / up by its reciprocal, up = 448 / a, or 448 when a <= 2^-24.
// It multiplies where the packing divides, so it may differ from the packed weight in a last place.
// Source: Model Optimizer, kernels/quantization/gemm/tensor_quant_gpu_fp8.cu.
VERNIER_HD constexpr float fp8_candidate_multiplier(float a) {
  return kE4m3Max / (a <= 0x1p-24f ? 1.0f : a);
}
VERNIER_HD constexpr float fp8_fake_quant(float w, float up) {
  return e4m3_to_float(float_to_e4m3_saturating(w * up)) * (1.0f / up);
}

// Activations as a serving kernel rounds them: e4m3(clamp(x / scale, +-448)) scale.
VERNIER_HD constexpr float fp8_round_input(float x, float scale) {
  return e4m3_to_float(float_to_e4m3_saturating(x / scale)) * scale;
}

}  // namespace vernier::formats
