// Work goes in chunks of blocks whose intermediate results stay in the first-level cache: amaxes,
// units and codes a byte each. No table is built, so small tensors cost no more per block than
// large ones.
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

// Halves an array: out[i] = the larger magnitude of neighbours 2i and 2i + 1. May read and write on
// to the next multiple of 8 results.
void HalveMax(const uint16_t* HWY_RESTRICT in, int64_t count, uint16_t* HWY_RESTRICT out) {
#if HWY_TARGET == HWY_SCALAR
  for (int64_t i = 0; i < count; ++i) {
    out[i] = static_cast<uint16_t>(std::max(in[2 * i] & 0x7FFF, in[2 * i + 1] & 0x7FFF));
  }
#else
  const hn::CappedTag<uint32_t, 8> d32;
  const hn::Repartition<uint16_t, decltype(d32)> d_pairs;
  const hn::Rebind<uint16_t, decltype(d32)> d_out;
  for (int64_t i = 0; i < count; i += static_cast<int64_t>(hn::Lanes(d32))) {
    const auto pairs = hn::BitCast(d32, hn::LoadU(d_pairs, in + 2 * i));
    const auto even = hn::And(pairs, hn::Set(d32, 0x7FFFu));
    const auto odd = hn::And(hn::ShiftRight<16>(pairs), hn::Set(d32, 0x7FFFu));
    hn::StoreU(hn::TruncateTo(d_out, hn::Max(even, odd)), d_out, out + i);
  }
#endif
}

// amaxes[b] = amax of block b as a BF16 code; `n_blocks` <= kChunk.
void BlockAmaxes(const uint16_t* w, int64_t n_blocks, uint16_t* amaxes) {
  uint16_t buffer[2][kChunk * kNvfp4Block / 2];
  HalveMax(w, n_blocks * 8, buffer[0]);
  HalveMax(buffer[0], n_blocks * 4, buffer[1]);
  HalveMax(buffer[1], n_blocks * 2, buffer[0]);
  HalveMax(buffer[0], n_blocks, amaxes);
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

// The codes of one block, a byte each: the sign bit wherever the quotient is below zero.
HWY_INLINE void EncodeBlock(const uint16_t* HWY_RESTRICT w, float unit,
                            uint8_t* HWY_RESTRICT codes) {
  const D d;
  const hn::RebindToSigned<D> di;
  const V by = hn::Set(d, unit);
  for (int64_t i = 0; i < kNvfp4Block; i += static_cast<int64_t>(hn::Lanes(d))) {
    const V quotient = hn::Div(LoadBf16(d, w + i), by);
    const V magnitude = hn::Min(hn::Abs(quotient), hn::Set(d, kE2m1Max));
    const auto is_negative = hn::RebindMask(di, hn::Lt(quotient, hn::Zero(d)));
    const auto sign = hn::IfThenElseZero(is_negative, hn::Set(di, 8));
    StoreBytes(d, hn::Or(EncodeMagnitude<E2m1Grid>(d, magnitude), sign), codes + i);
  }
}

// Packs neighbouring codes, a byte each, into one byte, the first in the low nibble.
HWY_INLINE void PackNibbles(const uint8_t* HWY_RESTRICT codes, int64_t n_bytes,
                            uint8_t* HWY_RESTRICT packed) {
  const hn::CappedTag<uint16_t, 8> d16;
  const hn::Rebind<uint8_t, decltype(d16)> d8;
  for (int64_t i = 0; i < n_bytes; i += static_cast<int64_t>(hn::Lanes(d16))) {
    const auto pairs = hn::LoadU(d16, reinterpret_cast<const uint16_t*>(codes + 2 * i));
    const auto bytes = hn::Or(pairs, hn::ShiftRight<4>(pairs));
    hn::StoreU(hn::TruncateTo(d8, bytes), d8, packed + i);
  }
}

void Pack(const uint16_t* w, int64_t n_blocks, const uint8_t* scales, float global_scale,
          uint8_t* packed) {
  alignas(64) float units[kChunk];
  alignas(64) uint8_t codes[kChunk * kNvfp4Block];
  for (int64_t first = 0; first < n_blocks; first += kChunk) {
    const int64_t count = std::min(kChunk, n_blocks - first);
    fp8_unpack(scales + first, count, global_scale, units);
    for (int64_t block = 0; block < count; ++block) {
      EncodeBlock(w + (first + block) * kNvfp4Block, units[block], codes + block * kNvfp4Block);
    }
    PackNibbles(codes, count * kNvfp4Block / 2, packed + first * kNvfp4Block / 2);
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

void RoundInputs(float* HWY_RESTRICT x, int64_t n_blocks, float input_scale) {
  for (int64_t block = 0; block < n_blocks; ++block, x += kNvfp4Block) {
    const float unit = nvfp4_unit(nvfp4_input_block_scale(InputAmax(x), input_scale), input_scale);
    if (unit == 0) {
      std::fill_n(x, kNvfp4Block, 0.0f);
    } else {
      RoundInputBlock(x, unit);
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
