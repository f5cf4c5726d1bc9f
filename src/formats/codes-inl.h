// Vector forms of the scalar codecs (e4m3.h, e2m1.h, bf16.h), for every instruction set: included
// once per target, hence the guard. `D` is a tag of FP32 lanes throughout.
#if defined(VERNIER_FORMATS_CODES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VERNIER_FORMATS_CODES_INL_H_
#undef VERNIER_FORMATS_CODES_INL_H_
#else
#define VERNIER_FORMATS_CODES_INL_H_
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace vernier::formats::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// A small float format as a grid of magnitudes. Rounding to it is one FP32 addition: next to a
// number 2^(23 - kMantissaBits) times as large as its power of two, a value keeps just
// kMantissaBits bits, and the addition rounds ties to even. Below 2^kMinExponent the spacing stays
// that of the subnormals.
struct E2m1Grid {
  static constexpr int kMantissaBits = 1;
  static constexpr int kMinExponent = 0;
};
struct E4m3Grid {
  static constexpr int kMantissaBits = 3;
  static constexpr int kMinExponent = -6;
};

// The power of two at or below x, at least 2^kMinExponent. x >= 0; infinity for NaN.
template <class Grid, class D, class V = hn::Vec<D>>
HWY_INLINE V PowerOfTwo(D d, V x) {
  const V exponent = hn::And(x, hn::BitCast(d, hn::Set(hn::RebindToSigned<D>(), 0x7F800000)));
  constexpr float kMin = Grid::kMinExponent == 0 ? 1.0f : 0x1p-6f;
  return hn::Max(exponent, hn::Set(d, kMin));
}

template <class Grid, class D, class V = hn::Vec<D>>
HWY_INLINE V Anchor(D d, V power) {
  return hn::Mul(power, hn::Set(d, static_cast<float>(1 << (23 - Grid::kMantissaBits))));
}

// The grid's nearest value. 0 <= x <= the grid's largest; a NaN stays one.
template <class Grid, class D, class V = hn::Vec<D>>
HWY_INLINE V RoundMagnitude(D d, V x) {
  const V anchor = Anchor<Grid>(d, PowerOfTwo<Grid>(d, x));
  return hn::Sub(hn::Add(x, anchor), anchor);
}

// The code of the nearest value. In units of its spacing, x is what the sum's bits exceed the
// anchor's by; every power of two above the least adds 2^kMantissaBits codes.
template <class Grid, class D, class V = hn::Vec<D>>
HWY_INLINE hn::Vec<hn::RebindToSigned<D>> EncodeMagnitude(D d, V x) {
  const hn::RebindToSigned<D> di;
  constexpr int kM = Grid::kMantissaBits;
  const V power = PowerOfTwo<Grid>(d, x);
  const V anchor = Anchor<Grid>(d, power);
  const auto units = hn::Sub(hn::BitCast(di, hn::Add(x, anchor)), hn::BitCast(di, anchor));
  const auto base = hn::ShiftRight<23 - kM>(hn::BitCast(di, power));
  return hn::Sub(hn::Add(units, base), hn::Set(di, (127 + Grid::kMinExponent) << kM));
}

// min(x, max), but a NaN stays one.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Saturate(D d, V x, float max) {
  const V top = hn::Set(d, max);
  return hn::IfThenElse(hn::Gt(x, top), top, x);
}

// bf16_to_float of Lanes(d) codes at `p`.
template <class D>
HWY_INLINE hn::Vec<D> LoadBf16(D d, const uint16_t* HWY_RESTRICT p) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::RebindToUnsigned<D> du;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, p))));
}

#if HWY_TARGET != HWY_SCALAR
// BF16 codes widened without a shuffle: 2n codes become two vectors of n FP32 lanes, those at even
// places and those at odd ones. Halves of FP32 lanes come back in the same order.
template <class D>
using HalfLanes = hn::Repartition<uint16_t, D>;

template <class D>
HWY_INLINE hn::Vec<D> EvenBf16(D d, hn::Vec<HalfLanes<D>> codes) {
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::BitCast(hn::RebindToUnsigned<D>(), codes)));
}
template <class D>
HWY_INLINE hn::Vec<D> OddBf16(D d, hn::Vec<HalfLanes<D>> codes) {
  const hn::RebindToUnsigned<D> du;
  return hn::BitCast(d, hn::And(hn::BitCast(du, codes), hn::Set(du, 0xFFFF0000u)));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE hn::Vec<HalfLanes<D>> UpperHalves(D /*d*/, V even, V odd) {
  const hn::RebindToUnsigned<D> du;
  const HalfLanes<D> d16;
  const auto moved = hn::ShiftRight<16>(hn::BitCast(du, even));
  return hn::OddEven(hn::BitCast(d16, odd), hn::BitCast(d16, moved));
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE hn::Vec<HalfLanes<D>> LowerHalves(D /*d*/, V even, V odd) {
  const hn::RebindToUnsigned<D> du;
  const HalfLanes<D> d16;
  const auto moved = hn::ShiftLeft<16>(hn::BitCast(du, odd));
  return hn::OddEven(hn::BitCast(d16, moved), hn::BitCast(d16, even));
}
#endif

// e4m3_to_float of Lanes(d) codes at `p`.
template <class D>
HWY_INLINE hn::Vec<D> LoadE4m3(D d, const uint8_t* HWY_RESTRICT p) {
  const hn::Rebind<uint8_t, D> d8;
  const hn::RebindToSigned<D> di;
  const auto code = hn::PromoteTo(di, hn::LoadU(d8, p));
  const auto magnitude = hn::And(code, hn::Set(di, 0x7F));
  const auto sign = hn::ShiftLeft<24>(hn::AndNot(hn::Set(di, 0x7F), code));
  const auto normal = hn::BitCast(d, hn::Add(hn::ShiftLeft<20>(magnitude), hn::Set(di, 120 << 23)));
  const auto subnormal = hn::Mul(hn::ConvertTo(d, magnitude), hn::Set(d, 0x1p-9f));
  const auto is_normal = hn::RebindMask(d, hn::Gt(magnitude, hn::Set(di, 7)));
  const auto is_nan = hn::RebindMask(d, hn::Eq(magnitude, hn::Set(di, 0x7F)));
  const auto nan = hn::BitCast(d, hn::Set(di, 0x7FC00000));
  const auto value = hn::IfThenElse(is_nan, nan, hn::IfThenElse(is_normal, normal, subnormal));
  return hn::Or(value, hn::BitCast(d, sign));
}

// Stores the low bytes of int32 lanes.
template <class D, class VI>
HWY_INLINE void StoreBytes(D /*d*/, VI codes, uint8_t* HWY_RESTRICT p) {
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<uint8_t, D> d8;
  hn::StoreU(hn::TruncateTo(d8, hn::BitCast(du, codes)), d8, p);
}

}  // namespace vernier::formats::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
