// Each function is one loop over vectors of up to 16 lanes, then the definition itself for the
// rest.
#include "formats/fp8_cpu.h"

#include "formats/fp8.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "formats/fp8_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "formats/codes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vernier::formats::HWY_NAMESPACE {
namespace {

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;

void Pack(const uint16_t* HWY_RESTRICT w, int64_t count, float divisor,
          uint8_t* HWY_RESTRICT codes) {
  const D d;
  const hn::RebindToSigned<D> di;
  const auto n = static_cast<int64_t>(hn::Lanes(d));
  const V by = hn::Set(d, divisor);
  int64_t i = 0;
  for (; i + n <= count; i += n) {
    const V quotient = RoundToBf16(d, hn::Div(LoadBf16(d, w + i), by));
    const auto magnitude = hn::Min(hn::Abs(quotient), hn::Set(d, kE4m3Max));
    const auto sign = hn::And(hn::ShiftRight<24>(hn::BitCast(di, quotient)), hn::Set(di, 0x80));
    StoreBytes(d, hn::Or(EncodeMagnitude<E4m3Grid>(d, magnitude), sign), codes + i);
  }
  for (; i < count; ++i) codes[i] = fp8_weight_code(bf16_to_float(w[i]), divisor);
}

void Unpack(const uint8_t* HWY_RESTRICT codes, int64_t count, float scale,
            float* HWY_RESTRICT out) {
  const D d;
  const auto n = static_cast<int64_t>(hn::Lanes(d));
  const V by = hn::Set(d, scale);
  int64_t i = 0;
  for (; i + n <= count; i += n) hn::StoreU(hn::Mul(LoadE4m3(d, codes + i), by), d, out + i);
  for (; i < count; ++i) out[i] = e4m3_to_float(codes[i]) * scale;
}

// e4m3(x) for any x, saturating.
HWY_INLINE V RoundToE4m3(D d, V x) {
  const V magnitude = RoundMagnitude<E4m3Grid>(d, Saturate(d, hn::Abs(x), kE4m3Max));
  return hn::CopySignToAbs(magnitude, x);
}

void RoundInputs(float* HWY_RESTRICT x, int64_t count, float scale) {
  const D d;
  const auto n = static_cast<int64_t>(hn::Lanes(d));
  const V by = hn::Set(d, scale);
  int64_t i = 0;
  for (; i + n <= count; i += n) {
    hn::StoreU(hn::Mul(RoundToE4m3(d, hn::Div(hn::LoadU(d, x + i), by)), by), d, x + i);
  }
  for (; i < count; ++i) x[i] = fp8_round_input(x[i], scale);
}

double Loss(const uint16_t* HWY_RESTRICT w, int64_t count, float up) {
  constexpr int64_t kStripe = 16;
  const D d;
  const auto n = static_cast<int64_t>(hn::Lanes(d));
  const V v_up = hn::Set(d, up);
  const V v_down = hn::Set(d, 1.0f / up);
  double sums[kStripe] = {};
  int64_t i = 0;
  for (; i + kStripe <= count; i += kStripe) {
    float errors[kStripe];
    for (int64_t j = 0; j < kStripe; j += n) {
      const V value = LoadBf16(d, w + i + j);
      const V rounded = hn::Mul(RoundToE4m3(d, hn::Mul(value, v_up)), v_down);
      hn::StoreU(hn::Sub(value, rounded), d, errors + j);
    }
    for (int64_t j = 0; j < kStripe; ++j) {
      sums[j] += static_cast<double>(errors[j]) * static_cast<double>(errors[j]);
    }
  }
  for (int64_t j = 0; i < count; ++i, ++j) {
    const float value = bf16_to_float(w[i]);
    const float error = value - fp8_fake_quant(value, up);
    sums[j] += static_cast<double>(error) * static_cast<double>(error);
  }
  double sum = 0;
  for (const double part : sums) sum += part;
  return sum;
}

}  // namespace
}  // namespace vernier::formats::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vernier::formats {

HWY_EXPORT(Pack);
HWY_EXPORT(Unpack);
HWY_EXPORT(RoundInputs);
HWY_EXPORT(Loss);

void fp8_pack(const uint16_t* w, int64_t count, float divisor, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(Pack)(w, count, divisor, codes);
}
void fp8_unpack(const uint8_t* codes, int64_t count, float scale, float* out) {
  HWY_DYNAMIC_DISPATCH(Unpack)(codes, count, scale, out);
}
void fp8_round_inputs(float* x, int64_t count, float scale) {
  HWY_DYNAMIC_DISPATCH(RoundInputs)(x, count, scale);
}
double fp8_loss(const uint16_t* w, int64_t count, float up) {
  return HWY_DYNAMIC_DISPATCH(Loss)(w, count, up);
}

}  // namespace vernier::formats
#endif
