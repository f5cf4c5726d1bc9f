// Work goes in chunks of blocks whose intermediate results, amaxes and units, stay in the
// first-level cache. No table is built, so small tensors cost no more per block than large ones.
// After the division everything is done in 16-bit lanes.
#include "formats/nvfp4_cpu.h"

#include <algorithm>

#include "formats/bf16.h"
#include "formats/fp8_cpu.h"
#include "formats/nvfp4.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "formats/nvfp4_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "formats/codes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vernier::formats::HWY_NAMESPACE {
namespace {

using D = hn::CappedTag<float, kNvfp4Block>;
using V = hn::Vec<D>;
constexpr int64_t kChunk = 128;  // blocks

uint16_t BlockAmax(const uint16_t* HWY_RESTRICT w) {
  int largest = 0;
  for (int64_t i = 0; i < kNvfp4Block; ++i) largest = std::max(largest, w[i] & 0x7FFF);
  return static_cast<uint16_t>(largest);
}

#if HWY_TARGET != HWY_SCALAR
// Amaxes of 8 blocks by a tree: each block is a vector of 8 partial maxima to start with, and every
// level folds two vectors into one, until every lane stands for a block. Lanes are magnitudes of
// BF16 as integers.
using Eight = hn::Full128<int16_t>;

// Halves the partial maxima of every block in a and b: the results, parts of T, alternate.
template <class T>
HWY_INLINE hn::Vec<Eight> Fold(hn::Vec<Eight> a, hn::Vec<Eight> b) {
  const hn::Full128<T> parts;
  const auto lower = hn::InterleaveLower(parts, hn::BitCast(parts, a), hn::BitCast(parts, b));
  const auto upper = hn::InterleaveUpper(parts, hn::BitCast(parts, a), hn::BitCast(parts, b));
  return hn::Max(hn::BitCast(Eight(), lower), hn::BitCast(Eight(), upper));
}

HWY_INLINE hn::Vec<Eight> AmaxOf1(const uint16_t* HWY_RESTRICT w) {
  const hn::Full128<uint16_t> d;
  const auto mask = hn::Set(d, uint16_t{0x7FFF});
  const auto first = hn::And(hn::LoadU(d, w), mask);
  const auto second = hn::And(hn::LoadU(d, w + 8), mask);
  return hn::Max(hn::BitCast(Eight(), first), hn::BitCast(Eight(), second));
}
HWY_INLINE hn::Vec<Eight> AmaxOf2(const uint16_t* HWY_RESTRICT w) {
  return Fold<int16_t>(AmaxOf1(w), AmaxOf1(w + kNvfp4Block));
}
HWY_INLINE hn::Vec<Eight> AmaxOf4(const uint16_t* HWY_RESTRICT w) {
  return Fold<int32_t>(AmaxOf2(w), AmaxOf2(w + 2 * kNvfp4Block));
}
HWY_INLINE hn::Vec<Eight> AmaxOf8(const uint16_t* HWY_RESTRICT w) {
  return Fold<int64_t>(AmaxOf4(w), AmaxOf4(w + 4 * kNvfp4Block));
}
#endif

// amaxes[b] = amax of block b as a BF16 code.
void BlockAmaxes(const uint16_t* HWY_RESTRICT w, int64_t n_blocks, uint16_t* HWY_RESTRICT amaxes) {
  int64_t block = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::Full128<uint16_t> d;
  for (; block + 8 <= n_blocks; block += 8) {
    hn::StoreU(hn::BitCast(d, AmaxOf8(w + block * kNvfp4Block)), d, amaxes + block);
  }
#endif
  for (; block < n_blocks; ++block) amaxes[block] = BlockAmax(w + block * kNvfp4Block);
}

// nvfp4_block_scale before its rounding, for vectors of amaxes.
class ScaleRatio {
 public:
  explicit ScaleRatio(const Nvfp4Scaling& scaling) {
    const Arithmetic arithmetic = scaling.arithmetic;
    if (scaling.is_static) {
      multiplies_ = arithmetic == Arithmetic::kCuda;
      sixth_ = scale_from_amax(1.0f, kE2m1Max, Arithmetic::kCuda);
      peak_ = scaling.peak;
      divisor_ = scale_from_amax(scaling.ga, kE2m1Max, arithmetic);
    } else {
      divisor_ = kE2m1Max * scaling.global_scale;
    }
    is_static_ = scaling.is_static;
  }

  HWY_INLINE V operator()(D d, V ba) const {
    const V one = hn::Set(d, 1.0f);
    const V divisor = hn::Set(d, divisor_);
    if (!is_static_) {
      const V ratio = hn::Div(ba, divisor);
      return hn::IfThenElse(hn::Eq(ratio, hn::Zero(d)), one, ratio);
    }
    const V p = multiplies_ ? hn::Mul(ba, hn::Set(d, sixth_)) : hn::Div(ba, hn::Set(d, kE2m1Max));
    const V q = hn::IfThenElse(hn::Eq(p, hn::Zero(d)), one, p);
    return hn::Div(hn::Mul(q, hn::Set(d, peak_)), divisor);
  }

 private:
  bool is_static_ = false;
  bool multiplies_ = false;
  float sixth_ = 0;
  float peak_ = 0;
  float divisor_ = 0;
};

void BlockScales(const float* HWY_RESTRICT amaxes, int64_t n_blocks, const Nvfp4Scaling& scaling,
                 uint8_t* HWY_RESTRICT scales) {
  const D d;
  const auto n = static_cast<int64_t>(hn::Lanes(d));
  const ScaleRatio ratio_of(scaling);
  int64_t i = 0;
  for (; i + n <= n_blocks; i += n) {
    const V ratio = ratio_of(d, hn::LoadU(d, amaxes + i));
    const V clamped = hn::Min(hn::Max(ratio, hn::Set(d, kE4m3Min)), hn::Set(d, kE4m3Max));
    StoreBytes(d, EncodeMagnitude<E4m3Grid>(d, clamped), scales + i);
  }
  for (; i < n_blocks; ++i) scales[i] = nvfp4_block_scale(amaxes[i], scaling);
}

void MaxBlockScales(const uint16_t* w, int64_t n_blocks, const Nvfp4Scaling& scaling,
                    uint8_t* scales) {
  for (int64_t first = 0; first < n_blocks; first += kChunk) {
    const int64_t count = std::min(kChunk, n_blocks - first);
    uint16_t codes[kChunk];
    float amaxes[kChunk];
    BlockAmaxes(w + first * kNvfp4Block, count, codes);
    for (int64_t i = 0; i < count; ++i) amaxes[i] = bf16_to_float(codes[i]);
    BlockScales(amaxes, count, scaling, scales + first);
  }
}

#if HWY_TARGET == HWY_SCALAR
void PackBlocks(const uint16_t* HWY_RESTRICT w, int64_t n_blocks, const float* HWY_RESTRICT units,
                uint8_t* HWY_RESTRICT packed) {
  for (int64_t i = 0; i < n_blocks * kNvfp4Block; i += 2) {
    const float unit = units[i / kNvfp4Block];
    const uint8_t low = float_to_e2m1(bf16_to_float(w[i]) / unit);
    const uint8_t high = float_to_e2m1(bf16_to_float(w[i + 1]) / unit);
    packed[i / 2] = static_cast<uint8_t>(high << 4 | low);
  }
}
#else
// Quotients are in two vectors, those of even and of odd places; their codes in one of 16-bit
// lanes, at most a block.
using Half = hn::CappedTag<float, kNvfp4Block / 2>;
using Codes = HalfLanes<Half>;

// -1 in the lanes of numbers below zero: neither -0 nor NaN.
HWY_INLINE hn::Vec<Codes> BelowZero(hn::Vec<Half> even, hn::Vec<Half> odd) {
  const Half d;
  const Codes d16;
  const auto zero = hn::Zero(d);
  return hn::OddEven(hn::BitCast(d16, hn::VecFromMask(d, hn::Lt(odd, zero))),
                     hn::BitCast(d16, hn::VecFromMask(d, hn::Lt(even, zero))));
}

// A magnitude is rounded to one mantissa bit, ties to even, in its upper half: `sum` adds just less
// than half of the last place, and a carry if the lower half is not zero or the last place is odd.
// From 1.0 on, the sum without the bits below that place is the code, the exponent off by 126.
// Below, where that is less, the code is the number of midpoints that the sum is past: 0.25 itself
// gives 0x3E9F and is not, 0.75 gives 0x3F60 and is.
HWY_INLINE hn::Vec<Codes> EncodeE2m1(hn::Vec<Half> even, hn::Vec<Half> odd) {
  const Half d;
  const Codes du;
  const hn::RebindToSigned<Codes> di;
  const auto upper = UpperHalves(d, even, odd);
  const auto last_place = hn::And(upper, hn::Set(du, uint16_t{0x40}));
  const auto carry =
      hn::Min(hn::Or(LowerHalves(d, even, odd), last_place), hn::Set(du, uint16_t{1}));
  const auto magnitude = hn::And(upper, hn::Set(du, uint16_t{0x7FFF}));
  const auto unbounded = hn::Add(hn::Add(magnitude, hn::Set(du, uint16_t{0x1F})), carry);
  const auto sum = hn::Min(hn::BitCast(di, unbounded), hn::Set(di, int16_t{0x40C0 + 0x1F}));  // 6
  const auto minus_normal = hn::Sub(hn::Set(di, int16_t{126 << 1}), hn::ShiftRight<6>(sum));
  const auto minus_passed = hn::Add(hn::VecFromMask(di, hn::Gt(sum, hn::Set(di, int16_t{0x3E9F}))),
                                    hn::VecFromMask(di, hn::Gt(sum, hn::Set(di, int16_t{0x3F5F}))));
  const auto minus_code = hn::BitCast(du, hn::Min(minus_normal, minus_passed));
  return hn::Sub(hn::And(BelowZero(even, odd), hn::Set(du, uint16_t{8})), minus_code);
}

// The division takes as long as ten other steps, so a vector's is started one turn ahead. Two
// neighbouring codes make a byte, the first in the low nibble: they share a 32-bit lane.
// REQUIRES: n_blocks > 0.
void PackBlocks(const uint16_t* HWY_RESTRICT w, int64_t n_blocks, const float* HWY_RESTRICT units,
                uint8_t* HWY_RESTRICT packed) {
  const Half d;
  const hn::RebindToUnsigned<Half> du;
  const hn::Rebind<uint8_t, Half> d8;
  const auto n = static_cast<int64_t>(hn::Lanes(Codes()));
  const int64_t last = n_blocks * kNvfp4Block - n;
  auto weights = hn::LoadU(Codes(), w);
  auto unit = hn::Set(d, units[0]);
  auto next_even = hn::Div(EvenBf16(d, weights), unit);
  auto next_odd = hn::Div(OddBf16(d, weights), unit);
  for (int64_t i = 0; i <= last; i += n) {
    const auto even = next_even;
    const auto odd = next_odd;
    const int64_t next = std::min(i + n, last);
    weights = hn::LoadU(Codes(), w + next);
    unit = hn::Set(d, units[next / kNvfp4Block]);
    next_even = hn::Div(EvenBf16(d, weights), unit);
    next_odd = hn::Div(OddBf16(d, weights), unit);
    const auto codes = hn::BitCast(du, EncodeE2m1(even, odd));
    const auto bytes = hn::Or(codes, hn::ShiftRight<12>(codes));
    hn::StoreU(hn::TruncateTo(d8, bytes), d8, packed + i / 2);
  }
}
#endif

void Pack(const uint16_t* w, int64_t n_blocks, const uint8_t* scales, float global_scale,
          uint8_t* packed) {
  alignas(64) float units[kChunk];
  for (int64_t first = 0; first < n_blocks; first += kChunk) {
    const int64_t count = std::min(kChunk, n_blocks - first);
    fp8_unpack(scales + first, count, global_scale, units);
    PackBlocks(w + first * kNvfp4Block, count, units, packed + first * kNvfp4Block / 2);
  }
}

// Twice an E2M1 value is a small integer: a table of bytes, looked up 16 codes at a time.
HWY_INLINE void UnpackBlock(const uint8_t* HWY_RESTRICT packed, float unit,
                            float* HWY_RESTRICT out) {
#if HWY_TARGET == HWY_SCALAR
  for (int64_t i = 0; i < kNvfp4Block; ++i) {
    const int nibble = packed[i / 2] >> (i % 2 * 4);
    out[i] = e2m1_to_float(static_cast<uint8_t>(nibble & 15)) * unit;
  }
#else
  alignas(16) static constexpr int8_t kTwice[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                                    0, -1, -2, -3, -4, -6, -8, -12};
  const D d;
  const hn::RebindToSigned<D> di;
  const hn::Rebind<int8_t, D> d8;
  const hn::Full128<uint8_t> du8;
  const hn::Full64<uint8_t> half;
  const auto bytes = hn::LoadU(half, packed);
  const auto low = hn::And(bytes, hn::Set(half, uint8_t{15}));
  const auto high = hn::ShiftRight<4>(bytes);
  const auto nibbles =
      hn::Combine(du8, hn::InterleaveUpper(half, low, high), hn::InterleaveLower(half, low, high));
  const auto twice = hn::TableLookupBytes(hn::Load(hn::Full128<int8_t>(), kTwice),
                                          hn::BitCast(hn::Full128<int8_t>(), nibbles));
  alignas(16) int8_t values[16];
  hn::Store(twice, hn::Full128<int8_t>(), values);
  for (int64_t i = 0; i < kNvfp4Block; i += static_cast<int64_t>(hn::Lanes(d))) {
    const V doubled = hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(d8, values + i)));
    const V value = hn::Mul(doubled, hn::Set(d, 0.5f));
    hn::StoreU(hn::Mul(value, hn::Set(d, unit)), d, out + i);
  }
#endif
}

void Unpack(const uint8_t* packed, int64_t n_blocks, const uint8_t* scales, float global_scale,
            float* out) {
  alignas(64) float units[kChunk];
  for (int64_t first = 0; first < n_blocks; first += kChunk) {
    const int64_t count = std::min(kChunk, n_blocks - first);
    fp8_unpack(scales + first, count, global_scale, units);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t block = first + i;
      UnpackBlock(packed + block * kNvfp4Block / 2, units[i], out + block * kNvfp4Block);
    }
  }
}

// The largest magnitude of a block, compared as integers, so that a NaN comes out on top.
HWY_INLINE float InputAmax(const float* HWY_RESTRICT x) {
  const D d;
  const hn::RebindToSigned<D> di;
  auto largest = hn::Zero(di);
  for (int64_t i = 0; i < kNvfp4Block; i += static_cast<int64_t>(hn::Lanes(d))) {
    largest = hn::Max(largest, hn::BitCast(di, hn::Abs(hn::LoadU(d, x + i))));
  }
  return hn::GetLane(hn::BitCast(d, hn::MaxOfLanes(di, largest)));
}

HWY_INLINE void RoundInputBlock(float* HWY_RESTRICT x, float unit) {
  const D d;
  const V by = hn::Set(d, unit);
  for (int64_t i = 0; i < kNvfp4Block; i += static_cast<int64_t>(hn::Lanes(d))) {
    const V value = hn::LoadU(d, x + i);
    const V magnitude = Saturate(d, hn::Div(hn::Abs(value), by), kE2m1Max);
    const V rounded = hn::Mul(RoundMagnitude<E2m1Grid>(d, magnitude), by);
    hn::StoreU(hn::CopySignToAbs(rounded, value), d, x + i);
  }
}

// units[b] = the unit that a block of amax amaxes[b] is rounded with.
void InputUnits(const float* HWY_RESTRICT amaxes, int64_t n_blocks, float input_scale,
                float* HWY_RESTRICT units) {
  const D d;
  const auto n = static_cast<int64_t>(hn::Lanes(d));
  const V divisor = hn::Set(d, kE2m1Max * input_scale);
  int64_t i = 0;
  for (; i + n <= n_blocks; i += n) {
    const V ratio = Saturate(d, hn::Div(hn::LoadU(d, amaxes + i), divisor), kE4m3Max);
    const V scale = RoundMagnitude<E4m3Grid>(d, ratio);
    hn::StoreU(hn::Mul(scale, hn::Set(d, input_scale)), d, units + i);
  }
  for (; i < n_blocks; ++i) {
    units[i] = nvfp4_unit(nvfp4_input_block_scale(amaxes[i], input_scale), input_scale);
  }
}

void RoundInputs(float* HWY_RESTRICT x, int64_t n_blocks, float input_scale) {
  float amaxes[kChunk];
  float units[kChunk];
  for (int64_t first = 0; first < n_blocks; first += kChunk) {
    const int64_t count = std::min(kChunk, n_blocks - first);
    float* chunk = x + first * kNvfp4Block;
    for (int64_t i = 0; i < count; ++i) amaxes[i] = InputAmax(chunk + i * kNvfp4Block);
    InputUnits(amaxes, count, input_scale, units);
    for (int64_t i = 0; i < count; ++i) {
      if (units[i] == 0) {
        std::fill_n(chunk + i * kNvfp4Block, kNvfp4Block, 0.0f);
      } else {
        RoundInputBlock(chunk + i * kNvfp4Block, units[i]);
      }
    }
  }
}

}  // namespace
}  // namespace vernier::formats::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vernier::formats {

HWY_EXPORT(BlockScales);
HWY_EXPORT(MaxBlockScales);
HWY_EXPORT(Pack);
HWY_EXPORT(Unpack);
HWY_EXPORT(RoundInputs);

void nvfp4_max_block_scales(const uint16_t* w, int64_t n_blocks, const Nvfp4Scaling& scaling,
                            uint8_t* scales) {
  HWY_DYNAMIC_DISPATCH(MaxBlockScales)(w, n_blocks, scaling, scales);
}
void nvfp4_block_scales(const float* amaxes, int64_t n_blocks, const Nvfp4Scaling& scaling,
                        uint8_t* scales) {
  HWY_DYNAMIC_DISPATCH(BlockScales)(amaxes, n_blocks, scaling, scales);
}
void nvfp4_pack(const uint16_t* w, int64_t n_blocks, const uint8_t* scales, float global_scale,
                uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(Pack)(w, n_blocks, scales, global_scale, codes);
}
void nvfp4_unpack(const uint8_t* codes, int64_t n_blocks, const uint8_t* scales, float global_scale,
                  float* out) {
  HWY_DYNAMIC_DISPATCH(Unpack)(codes, n_blocks, scales, global_scale, out);
}
void nvfp4_round_inputs(float* x, int64_t n_blocks, float input_scale) {
  HWY_DYNAMIC_DISPATCH(RoundInputs)(x, n_blocks, input_scale);
}

}  // namespace vernier::formats
#endif
