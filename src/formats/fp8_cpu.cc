// Each function is one loop over vectors of up to 16 lanes, then the definition itself for the
// rest.
#include "formats/fp8_cpu.h"

#include <algorithm>

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

#if HWY_TARGET != HWY_SCALAR
// FP32 numbers rounded to BF16, in 16-bit lanes. The average of the lower half and of 0x7FFE, or
// 0x7FFF where the upper half is odd, has the carry on top.
HWY_INLINE hn::Vec<HalfLanes<D>> RoundToBf16Codes(D d, V even, V odd) {
  const HalfLanes<D> d16;
  const auto upper = UpperHalves(d, even, odd);
  const auto is_odd = hn::And(upper, hn::Set(d16, uint16_t{1}));
  const auto carry =
      hn::AverageRound(LowerHalves(d, even, odd), hn::Add(is_odd, hn::Set(d16, uint16_t{0x7FFE})));
  return hn::Add(upper, hn::ShiftRight<15>(carry));
}

// E4M3 codes of BF16 magnitudes. From 2^-6 on, the number's own bits rounded to 3 mantissa bits,
// the exponent off by 120. Below, the number of steps of 2^-9: a sum near 2^14 has this last place.
// That is rare, so vectors without such a number skip it.
HWY_INLINE hn::Vec<HalfLanes<D>> EncodeE4m3(D d, hn::Vec<HalfLanes<D>> bf16) {
  const HalfLanes<D> du16;
  const hn::RebindToSigned<HalfLanes<D>> d16;
  const auto zero = hn::Zero(d16);
  const auto magnitude = hn::Min(hn::BitCast(d16, bf16), hn::Set(d16, int16_t{0x43E0}));  // 448
  const auto odd = hn::And(hn::ShiftRight<4>(magnitude), hn::Set(d16, int16_t{1}));
  const auto rounded =
      hn::ShiftRight<4>(hn::Add(hn::Add(magnitude, hn::Set(d16, int16_t{7})), odd));
  const auto normal = hn::Max(hn::Sub(rounded, hn::Set(d16, int16_t{120 << 3})), zero);
  const auto is_subnormal =
      hn::And(hn::Gt(magnitude, zero), hn::Lt(magnitude, hn::Set(d16, int16_t{0x3C80})));
  if (HWY_LIKELY(hn::AllFalse(d16, is_subnormal))) return hn::BitCast(du16, normal);
  const V anchor = hn::Set(d, 0x1p14f);
  const auto steps =
      LowerHalves(d, hn::Add(EvenBf16(d, bf16), anchor), hn::Add(OddBf16(d, bf16), anchor));
  return hn::BitCast(du16, hn::IfThenElse(is_subnormal, hn::BitCast(d16, steps), normal));
}

// Whole vectors of codes, at least one. The division takes as long as ten other steps, so a
// vector's is started one turn ahead.
void PackVectors(const uint16_t* HWY_RESTRICT w, int64_t count, float divisor,
                 uint8_t* HWY_RESTRICT codes) {
  const D d;
  const HalfLanes<D> d16;
  const hn::Rebind<uint8_t, HalfLanes<D>> d8;
  const auto n = static_cast<int64_t>(hn::Lanes(d16));
  const V by = hn::Set(d, divisor);
  const auto sign_bit = hn::Set(d16, uint16_t{0x8000});
  auto weights = hn::LoadU(d16, w);
  V next_even = hn::Div(EvenBf16(d, weights), by);
  V next_odd = hn::Div(OddBf16(d, weights), by);
  for (int64_t i = 0; i < count; i += n) {
    const V even = next_even;
    const V odd = next_odd;
    weights = hn::LoadU(d16, w + std::min(i + n, count - n));
    next_even = hn::Div(EvenBf16(d, weights), by);
    next_odd = hn::Div(OddBf16(d, weights), by);
    const auto bf16 = RoundToBf16Codes(d, even, odd);
    const auto signs = hn::ShiftRight<8>(hn::And(bf16, sign_bit));
    const auto signed_codes = hn::Or(EncodeE4m3(d, hn::AndNot(sign_bit, bf16)), signs);
    hn::StoreU(hn::TruncateTo(d8, signed_codes), d8, codes + i);
  }
}
#endif

void Pack(const uint16_t* HWY_RESTRICT w, int64_t count, float divisor,
          uint8_t* HWY_RESTRICT codes) {
  int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  i = count - count % static_cast<int64_t>(hn::Lanes(HalfLanes<D>()));
  if (i > 0) PackVectors(w, i, divisor, codes);
#endif
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
