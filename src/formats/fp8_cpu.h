// FP8 in bulk: the definitions of fp8.h over arrays, vectorized. One thread.
#pragma once

#include <cstdint>

namespace vernier::formats {

// codes[i] = fp8_weight_code(w[i], divisor), `w` in BF16.
void fp8_pack(const uint16_t* w, int64_t count, float divisor, uint8_t* codes);
// out[i] = e4m3(codes[i]) * scale.
void fp8_unpack(const uint8_t* codes, int64_t count, float scale, float* out);
// x[i] = fp8_round_input(x[i], scale).
void fp8_round_inputs(float* x, int64_t count, float scale);
// Sum of (w - fp8_fake_quant(w, up))^2: FP32 errors, squared and added in double, in 16 partial
// sums by i mod 16 whatever the vector width.
double fp8_loss(const uint16_t* w, int64_t count, float up);

}  // namespace vernier::formats
