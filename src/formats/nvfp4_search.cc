// Two ways to compute a block's loss, both in the fixed tree of nvfp4_block_loss: for one scale,
// with the 16 weights in the lanes of vectors, and for many scales at once, one scale a lane.
//
// The sweep returns what trying all 126 codes would, and tries about ten. Let ba be the block's
// amax, s a code's scale, y = w / s, and let a code "cover" the block when ba <= 6.95 s, so that
// every y < 7.
//
// Twice a covering scale is no better. E2M1 values, doubled, are E2M1 values up to 6 again, so what
// 2s offers to a weight with y < 7, s offers too: (2q) s is q (2s), the same FP32 number. Rounding
// picks the value of least error. Its FP32 error is the least too: unless the FP32 quotient is a
// tie, y is off the tie by over half a unit in the last place, more than the rounding of the
// products 1.5 s, 3 s and 6 s takes back; and at every tie, with s as with 2s, the same number is
// chosen:
//   y      0.25  0.75  1.25  1.75  2.5  3.5  5
//   q s    0     1     1     2     2    4    4   (times s)
// So no term of the loss is less with 2s, nor is their sum, since FP32 addition is monotone. Equal
// losses go to the lower code. Scales double exactly every 8 codes, from code 8 on: of the covering
// codes only the lowest eight may win (or, with subnormal ones among them, those up to 15).
//
// Too small a scale saturates. If 6s < ba the loss is at least (ba - 6s)^2, one of its terms, which
// grows as codes fall. Where it exceeds the least loss so far, all lower codes lose.
#include "formats/nvfp4_search.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "formats/bf16.h"
#include "formats/nvfp4.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "formats/nvfp4_search.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "formats/codes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vernier::formats::HWY_NAMESPACE {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The squared errors of magnitudes at scales, both in vectors. Where a scale is 0, a magnitude
// becomes 0, whatever it is divided by.
template <class D, class V>
HWY_INLINE V SquaredError(D d, V magnitude, V scale, V divisor) {
  const V quotient = hn::Min(hn::Div(magnitude, divisor), hn::Set(d, kE2m1Max));
  const V rounded = hn::Mul(RoundMagnitude<E2m1Grid>(d, quotient), scale);
  const V error = hn::Sub(magnitude, rounded);
  return hn::Mul(error, error);
}

constexpr hn::CappedTag<float, kNvfp4Block> kLanes = {};
HWY_INLINE int NLanes() { return static_cast<int>(hn::Lanes(kLanes)); }

// A few blocks, widened to FP32 magnitudes. They go through memory so that the losses of many
// scales may broadcast them from there.
constexpr int64_t kChunk = 64;
struct Magnitudes {
  alignas(64) float values[kChunk * kNvfp4Block];
  alignas(64) float amax[kChunk] = {};
};

HWY_NOINLINE void Widen(const uint16_t* HWY_RESTRICT w, int64_t n_blocks, Magnitudes& out) {
  for (int64_t block = 0; block < n_blocks; ++block) {
    auto largest = hn::Zero(kLanes);
    for (int64_t i = block * kNvfp4Block; i < (block + 1) * kNvfp4Block; i += NLanes()) {
      const auto magnitude = hn::Abs(LoadBf16(kLanes, w + i));
      hn::Store(magnitude, kLanes, out.values + i);
      largest = hn::Max(largest, magnitude);
    }
    out.amax[block] = hn::GetLane(hn::MaxOfLanes(kLanes, largest));
  }
}

class Block {
 public:
  HWY_INLINE Block(const Magnitudes& blocks, int64_t index)
      : magnitudes_(blocks.values + index * kNvfp4Block), amax_(blocks.amax[index]) {}

  float amax() const { return amax_; }

  // The loss at one scale, not 0.
  HWY_INLINE float loss(float scale) const {
    alignas(64) float terms[kNvfp4Block];
    const auto scales = hn::Set(kLanes, scale);
    for (int i = 0; i < kNvfp4Block; i += NLanes()) {
      const auto magnitude = hn::Load(kLanes, magnitudes_ + i);
      hn::Store(SumOfFours(SquaredError(kLanes, magnitude, scales, scales)), kLanes, terms + i);
    }
    if (NLanes() < 4) SumOfFours(terms);
    return (terms[0] + terms[4]) + (terms[8] + terms[12]);
  }

  // The losses at a vector of scales; `divisor` is the scale, or anything else where that is 0.
  template <class D, class V = hn::Vec<D>>
  HWY_INLINE V losses(D d, V scale, V divisor) const {
    return hn::Add(eight(d, scale, divisor, 0), eight(d, scale, divisor, 8));
  }

 private:
  // Every lane becomes the tree's sum of its group of four.
  static HWY_INLINE hn::Vec<decltype(kLanes)> SumOfFours(hn::Vec<decltype(kLanes)> terms) {
#if HWY_TARGET == HWY_SCALAR
    return terms;
#else
    const auto pairs = hn::Add(terms, hn::Shuffle2301(terms));
    return hn::Add(pairs, hn::Shuffle1032(pairs));
#endif
  }
  static void SumOfFours(float* terms) {
    for (int i = 0; i < kNvfp4Block; i += 4) {
      terms[i] = (terms[i] + terms[i + 1]) + (terms[i + 2] + terms[i + 3]);
    }
  }

  template <class D, class V>
  HWY_INLINE V one(D d, V scale, V divisor, int i) const {
    return SquaredError(d, hn::Set(d, magnitudes_[i]), scale, divisor);
  }
  template <class D, class V>
  HWY_INLINE V four(D d, V scale, V divisor, int i) const {
    const V low = hn::Add(one(d, scale, divisor, i), one(d, scale, divisor, i + 1));
    const V high = hn::Add(one(d, scale, divisor, i + 2), one(d, scale, divisor, i + 3));
    return hn::Add(low, high);
  }
  template <class D, class V>
  HWY_INLINE V eight(D d, V scale, V divisor, int i) const {
    return hn::Add(four(d, scale, divisor, i), four(d, scale, divisor, i + 4));
  }

  const float* magnitudes_;
  float amax_;
};

// Runs choose(magnitudes, n, scales) over an array of blocks, a chunk at a time.
template <class Choose>
HWY_INLINE void ForEachChunk(const uint16_t* w, int64_t n_blocks, uint8_t* scales,
                             const Choose& choose) {
  Magnitudes chunk;
  for (int64_t first = 0; first < n_blocks; first += kChunk) {
    const int64_t count = std::min(kChunk, n_blocks - first);
    Widen(w + first * kNvfp4Block, count, chunk);
    choose(chunk, count, scales + first);
  }
}

struct TryAll {
  const Nvfp4SweepTable& table;

  HWY_INLINE void operator()(const Magnitudes& blocks, int64_t n_blocks, uint8_t* scales) const {
    for (int64_t i = 0; i < n_blocks; ++i) scales[i] = best(Block(blocks, i));
  }

 private:
  HWY_INLINE uint8_t best(const Block& block) const {
    const hn::CappedTag<float, 16> d;
    const hn::RebindToSigned<decltype(d)> di;
    const int n = static_cast<int>(hn::Lanes(d));
    auto least = hn::Set(d, kInfinity);
    auto best_code = hn::Set(di, 1);
    for (int first = 0; first < 128; first += n) {
      const auto scale = hn::LoadU(d, table.scale.data() + first);
      const auto losses = block.losses(d, scale, scale);
      const auto better = hn::Lt(losses, least);
      const auto codes = hn::Add(hn::Iota(di, 0), hn::Set(di, first));
      least = hn::IfThenElse(better, losses, least);
      best_code = hn::IfThenElse(hn::RebindMask(di, better), codes, best_code);
    }
    const auto is_least = hn::RebindMask(di, hn::Eq(least, hn::MinOfLanes(d, least)));
    const auto codes = hn::IfThenElse(is_least, best_code, hn::Set(di, 127));
    return static_cast<uint8_t>(hn::GetLane(hn::MinOfLanes(di, codes)));
  }
};

struct Choice {
  float loss = kInfinity;
  int index = 0;

  // Of equal losses the lower index wins, whatever the order.
  HWY_INLINE void offer(float other, int other_index) {
    const bool wins = (other < loss) | ((other == loss) & (other_index < index));
    loss = wins ? other : loss;
    index = wins ? other_index : index;
  }
};

// Offers the least of a vector of losses; lane i has the index first + i.
template <class D, class V>
HWY_INLINE void OfferLanes(D d, V losses, int first, Choice& choice) {
  const V least = hn::MinOfLanes(d, losses);
  const auto lane = static_cast<int>(hn::FindFirstTrue(d, hn::Eq(losses, least)));
  choice.offer(hn::GetLane(least), first + lane);
}

constexpr int kWindow = 8;
constexpr int kFirstNormal = 8;

// The sweep of one block, in two steps: `start` has no branches, so that the processor overlaps
// blocks.
class Sweep {
 public:
  // Tries eight codes from `first` on, about the lowest covering ones. True when that settles it.
  HWY_INLINE bool start(const Nvfp4SweepTable& table, const Block& block, int first) {
    first_ = first;
    try_window(table, block, first);
    return (first >= kFirstNormal) & saturates(table, block, first - 1);
  }

  void finish(const Nvfp4SweepTable& table, const Block& block) {
    if (first_ < kFirstNormal) try_window(table, block, first_ + kWindow);
    for (int code = first_ - 1; code >= 1 && !saturates(table, block, code); --code) {
      choice_.offer(block.loss(table.scale[static_cast<size_t>(code)]), code);
    }
  }

  uint8_t best_code() const { return static_cast<uint8_t>(choice_.index); }

 private:
  HWY_INLINE bool saturates(const Nvfp4SweepTable& table, const Block& block, int code) const {
    const float error = block.amax() - kE2m1Max * table.scale[static_cast<size_t>(code)];
    return (error > 0) & (error * error > choice_.loss);
  }

  HWY_INLINE void try_window(const Nvfp4SweepTable& table, const Block& block, int first) {
    const hn::CappedTag<float, kWindow> d;
    for (int i = 0; i < kWindow; i += static_cast<int>(hn::Lanes(d))) {
      const auto scale = hn::LoadU(d, &table.scale[static_cast<size_t>(first + i)]);
      OfferLanes(d, block.losses(d, scale, scale), first + i, choice_);
    }
  }

  int first_ = 1;
  Choice choice_ = {.loss = kInfinity, .index = 1};
};

struct TryFew {
  const Nvfp4SweepTable& table;

  // Where to start in each block: the code nearest to amax / 6.5. From code 8 on rounding takes off
  // less than 1/17, so that the code covers the block; below, the search goes on to code 15, which
  // does.
  HWY_INLINE void FirstCodes(const Magnitudes& blocks, int32_t* codes) const {
    const hn::RebindToSigned<decltype(kLanes)> di;
    const auto highest = hn::Set(di, kE4m3MaxCode + 1 - kWindow);
    for (int64_t i = 0; i < kChunk; i += NLanes()) {
      const auto amax = hn::Load(kLanes, blocks.amax + i);
      const auto scale =
          hn::Min(hn::Mul(amax, hn::Set(kLanes, table.codes_per_amax)), hn::Set(kLanes, kE4m3Max));
      const auto code = EncodeMagnitude<E4m3Grid>(kLanes, scale);
      hn::StoreU(hn::Min(hn::Max(code, hn::Set(di, 1)), highest), di, codes + i);
    }
  }

  HWY_INLINE void operator()(const Magnitudes& blocks, int64_t n_blocks, uint8_t* scales) const {
    int32_t first_codes[kChunk];
    FirstCodes(blocks, first_codes);
    Sweep sweeps[kChunk];
    int64_t unfinished[kChunk + 1];
    int64_t n_unfinished = 0;
    for (int64_t i = 0; i < n_blocks; ++i) {
      unfinished[n_unfinished] = i;
      n_unfinished += !sweeps[i].start(table, Block(blocks, i), first_codes[i]);
    }
    for (int64_t j = 0; j < n_unfinished; ++j) {
      sweeps[unfinished[j]].finish(table, Block(blocks, unfinished[j]));
    }
    for (int64_t i = 0; i < n_blocks; ++i) scales[i] = sweeps[i].best_code();
  }
};

// Tries the multipliers, as many at a time as `D` has lanes. Lanes past the last one repeat it.
template <class D>
class TryMultipliers {
 public:
  TryMultipliers(const Nvfp4Scaling& scaling, std::span<const float> multipliers)
      : scaling_(scaling),
        multipliers_(multipliers.begin(), multipliers.end()),
        up_(nvfp4_candidate_up(scaling.ga, scaling.peak, scaling.arithmetic)),
        down_(1.0f / up_) {
    while (multipliers_.size() % hn::Lanes(D()) != 0) multipliers_.push_back(multipliers_.back());
  }

  HWY_INLINE void operator()(const Magnitudes& blocks, int64_t n_blocks, uint8_t* scales) const {
    float amaxes[kChunk];
    for (int64_t i = 0; i < n_blocks; ++i) amaxes[i] = best_amax(Block(blocks, i));
    nvfp4_block_scales(amaxes, n_blocks, scaling_, scales);
  }

 private:
  HWY_INLINE float best_amax(const Block& block) const {
    const D d;
    Choice choice;
    for (size_t i = 0; i < multipliers_.size(); i += hn::Lanes(d)) {
      const auto amax = hn::Mul(hn::Set(d, block.amax()), hn::LoadU(d, &multipliers_[i]));
      const auto scale = candidate_scale(amax);
      const auto divisor = hn::IfThenElse(hn::Eq(scale, hn::Zero(d)), hn::Set(d, 1.0f), scale);
      OfferLanes(d, block.losses(d, scale, divisor), static_cast<int>(i), choice);
    }
    return block.amax() * multipliers_[static_cast<size_t>(choice.index)];
  }

  // nvfp4_candidate_scale of a vector.
  HWY_INLINE hn::Vec<D> candidate_scale(hn::Vec<D> amax) const {
    const D d;
    const auto scale = scaling_.arithmetic == Arithmetic::kCuda
                           ? hn::Mul(amax, hn::Set(d, 1.0f / kE2m1Max))
                           : hn::Div(amax, hn::Set(d, kE2m1Max));
    const auto code = hn::Min(hn::Mul(scale, hn::Set(d, up_)), hn::Set(d, kE4m3Max));
    return hn::Mul(RoundMagnitude<E4m3Grid>(d, code), hn::Set(d, down_));
  }

  Nvfp4Scaling scaling_;
  std::vector<float> multipliers_;
  float up_;
  float down_;
};

void SweepAll(const uint16_t* w, int64_t n_blocks, const Nvfp4SweepTable& table, uint8_t* scales) {
  ForEachChunk(w, n_blocks, scales, TryAll{table});
}
void SweepPruned(const uint16_t* w, int64_t n_blocks, const Nvfp4SweepTable& table,
                 uint8_t* scales) {
  ForEachChunk(w, n_blocks, scales, TryFew{table});
}
void SearchMultipliers(const uint16_t* w, int64_t n_blocks, const Nvfp4Scaling& scaling,
                       std::span<const float> multipliers, uint8_t* scales) {
  // Four-over-six has two candidates: a narrow vector wastes less.
  if (multipliers.size() <= 4) {
    using Narrow = hn::CappedTag<float, 4>;
    ForEachChunk(w, n_blocks, scales, TryMultipliers<Narrow>(scaling, multipliers));
  } else {
    using Wide = hn::CappedTag<float, 8>;
    ForEachChunk(w, n_blocks, scales, TryMultipliers<Wide>(scaling, multipliers));
  }
}

}  // namespace
}  // namespace vernier::formats::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vernier::formats {

Nvfp4SweepTable::Nvfp4SweepTable(float ga, Arithmetic arithmetic)
    : codes_per_amax(kE2m1Max / 6.5f * kE4m3Max / ga) {
  scale[0] = std::numeric_limits<float>::infinity();  // its loss is a NaN, never the least
  for (size_t v = 1; v < scale.size(); ++v) {
    const size_t code = std::min<size_t>(v, kE4m3MaxCode);
    scale[v] = nvfp4_sweep_scale(static_cast<uint8_t>(code), ga, arithmetic);
  }
}

HWY_EXPORT(SweepAll);
HWY_EXPORT(SweepPruned);
HWY_EXPORT(SearchMultipliers);

void nvfp4_sweep(const uint16_t* w, int64_t n_blocks, const Nvfp4SweepTable& table,
                 uint8_t* scales) {
  // At the very bottom of FP32's range scales are subnormal and do not double exactly.
  if (table.scale[1] < 0x1p-100f) return nvfp4_sweep_all(w, n_blocks, table, scales);
  HWY_DYNAMIC_DISPATCH(SweepPruned)(w, n_blocks, table, scales);
}
void nvfp4_sweep_all(const uint16_t* w, int64_t n_blocks, const Nvfp4SweepTable& table,
                     uint8_t* scales) {
  HWY_DYNAMIC_DISPATCH(SweepAll)(w, n_blocks, table, scales);
}
void nvfp4_search_multipliers(const uint16_t* w, int64_t n_blocks, const Nvfp4Scaling& scaling,
                              std::span<const float> multipliers, uint8_t* scales) {
  HWY_DYNAMIC_DISPATCH(SearchMultipliers)(w, n_blocks, scaling, multipliers, scales);
}

}  // namespace vernier::formats
#endif
