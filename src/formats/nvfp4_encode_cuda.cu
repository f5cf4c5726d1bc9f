// Packs NVFP4 on a device. A thread takes a block of 16 weights at a time: it reads 32 bytes,
// chooses the block scale by the rule, and writes 8 bytes of codes and one of scale. The grid stays
// resident and walks over the weight, the next block's loads in flight during this one's work.
//
// Codes without divisions. The code of a weight w is e2m1(w / unit), which never falls as |w|
// grows, and w is one of 32640 BF16 magnitudes. So for each of the 126 block scales there are seven
// least magnitudes that reach the codes 1 to 7, and one that reaches a quotient above zero, which
// sets the sign. Every thread block finds these 1008 thresholds by the definition itself and keeps
// them in shared memory; from there on a code is three comparisons (a binary search) and the sign
// a fourth, for two weights at once. That is about 10 instructions a weight, where the division
// alone takes as many. Equality with the definition needs no argument about rounding.
//
// The searches reuse the host's definitions and, for the sweep, its proof of which codes cannot win
// (nvfp4_search.cc). Their losses are bound by arithmetic: about 14 FP32 operations for a weight
// and a scale, three of them the exact quotient.
#include "formats/nvfp4_encode_cuda.h"

#include <limits>

#include "formats/codes_cuda.h"
#include "formats/nvfp4_rule.h"
#include "formats/nvfp4_search.h"
#include "formats/rows.h"

namespace vernier::formats::cuda {
namespace {

constexpr int kBlock = static_cast<int>(kNvfp4Block);
constexpr uint32_t kMagnitudes = 0x7FFF7FFF;
constexpr uint32_t kInfinity = 0x7F80;  // as a BF16 code: no weight reaches it

struct Weights {
  Bf16x8 half[2];
};

// 0xFFFF in each half where a >= b, or a <= b, as BF16 numbers.
__device__ uint32_t at_least(uint32_t a, uint32_t b) {
  uint32_t mask;
  asm("set.ge.u32.bf16x2 %0, %1, %2;" : "=r"(mask) : "r"(a), "r"(b));
  return mask;
}
__device__ uint32_t at_most(uint32_t a, uint32_t b) {
  uint32_t mask;
  asm("set.le.u32.bf16x2 %0, %1, %2;" : "=r"(mask) : "r"(a), "r"(b));
  return mask;
}
// Bits of a where the mask is set, else of b.
__device__ uint32_t select(uint32_t mask, uint32_t a, uint32_t b) {
  return (mask & a) | (~mask & b);
}

// The thresholds of one block scale, each in both halves of a word: least_[k] reaches code k, and
// negative_ is the least magnitude with a quotient above zero, negated. In the order of use.
struct Thresholds {
  uint32_t least4, least2, least6, negative, least1, least3, least5, least7;
};

class ThresholdTable {
 public:
  // By the whole thread block; then synchronize.
  __device__ void build(float global_scale) {
    for (uint32_t i = 8 + threadIdx.x; i < 8 * (kE4m3MaxCode + 1); i += blockDim.x) {
      const uint32_t code = code_at(i % 8);
      const float unit = nvfp4_unit(static_cast<uint8_t>(i / 8), global_scale);
      const uint32_t least = least_magnitude(unit, code);
      const uint32_t sign = code == 0 ? 0x80008000u : 0;
      word(i) = least | least << 16 | sign;
    }
  }

  __device__ Thresholds of(uint8_t scale) const {
    const uint4 a = first_[scale], b = second_[scale];
    return {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
  }

 private:
  // What the words of Thresholds stand for; 0 is the sign.
  static __device__ uint32_t code_at(uint32_t index) { return 0x75310624u >> 4 * index & 15u; }

  // The lower midpoint of a code belongs to it when the code is even.
  static __device__ bool reaches(uint32_t magnitude, float unit, float midpoint, bool is_even) {
    const float quotient = bf16_to_float(static_cast<uint16_t>(magnitude)) / unit;
    return is_even ? quotient >= midpoint : quotient > midpoint;
  }
  // From a guess, up or down: one or two steps.
  static __device__ uint32_t least_magnitude(float unit, uint32_t code) {
    // The sign needs a quotient above zero. 2^-133, the least BF16 number, over 2^16 is one.
    if (code == 0 && unit <= 0x1p16f) return 1;
    const float midpoint = code == 0 ? 0
                                     : 0.5f * (e2m1_to_float(static_cast<uint8_t>(code - 1)) +
                                               e2m1_to_float(static_cast<uint8_t>(code)));
    const float guess = code == 0 ? unit * 0x1p-75f * 0x1p-75f : unit * midpoint;
    const bool is_even = code % 2 == 0 && code != 0;
    uint32_t magnitude = min(max(float_to_bf16(guess), 1), kInfinity);
    while (magnitude > 1 && reaches(magnitude - 1, unit, midpoint, is_even)) --magnitude;
    while (magnitude < kInfinity && !reaches(magnitude, unit, midpoint, is_even)) ++magnitude;
    return magnitude;
  }

  __device__ uint32_t& word(uint32_t i) {
    uint4* const half = i % 8 < 4 ? first_ : second_;
    return reinterpret_cast<uint32_t*>(half + i / 8)[i % 4];
  }

  uint4 first_[kE4m3MaxCode + 1];  // two arrays, so that a row is one access without conflicts
  uint4 second_[kE4m3MaxCode + 1];
};

// Where bit `bit` of a code lies once two weights of a word are coded: the first weight's code in
// the low nibble of byte `byte` of the low half, the second one's in the high nibble of the same
// byte of the high half.
constexpr uint32_t code_bit(int byte, int bit) {
  return 1u << (8 * byte + bit) | 1u << (16 + 8 * byte + 4 + bit);
}

template <int kByte>
__device__ uint32_t code_two(uint32_t pair, const Thresholds& t, uint32_t word) {
  const uint32_t magnitudes = pair & kMagnitudes;
  const uint32_t bit2 = at_least(magnitudes, t.least4);
  const uint32_t bit1 = at_least(magnitudes, select(bit2, t.least6, t.least2));
  const uint32_t odd_low = select(bit1, t.least3, t.least1);
  const uint32_t odd_high = select(bit1, t.least7, t.least5);
  const uint32_t bit0 = at_least(magnitudes, select(bit2, odd_high, odd_low));
  word = select(code_bit(kByte, 0), bit0, word);
  word = select(code_bit(kByte, 1), bit1, word);
  word = select(code_bit(kByte, 2), bit2, word);
  return select(code_bit(kByte, 3), at_most(pair, t.negative), word);
}

// Eight codes, the first in the lowest nibble.
__device__ uint32_t code_eight(const Bf16x8& w, const Thresholds& t) {
  const uint32_t low = code_two<1>(w.pair[1], t, code_two<0>(w.pair[0], t, 0));
  const uint32_t high = code_two<1>(w.pair[3], t, code_two<0>(w.pair[2], t, 0));
  return select(0x0F0F0F0Fu, __byte_perm(low, high, 0x5410), __byte_perm(low, high, 0x7632));
}

__device__ float amax_of(const Weights& w) {
  uint32_t largest = 0;
#pragma unroll
  for (const Bf16x8& half : w.half) {
#pragma unroll
    for (const uint32_t pair : half.pair) largest = __vmaxu2(largest, pair & kMagnitudes);
  }
  return bf16_to_float(static_cast<uint16_t>(max(largest & 0xFFFFu, largest >> 16)));
}

// The rules. Each has, for a thread block, Shared memory that `prepare` fills before the threads
// synchronize; the call gives the scale of one block.

struct MaxRule {
  struct Shared {};
  static constexpr int kThreads = 640;
  static constexpr int kResident = 2;  // blocks of a multiprocessor
  Nvfp4Scaling scaling;

  __device__ void prepare(Shared&) const {}
  __device__ uint8_t operator()(const Weights& w, const Shared&) const {
    return nvfp4_block_scale(amax_of(w), scaling);
  }
};

// The sum of 16 terms in the order of nvfp4_block_loss.
__device__ float tree_sum(float (&terms)[kBlock]) {
#pragma unroll
  for (int width = 1; width < kBlock; width *= 2) {
#pragma unroll
    for (int i = 0; i < kBlock; i += 2 * width) terms[i] += terms[i + width];
  }
  return terms[0];
}

// The magnitudes of one block.
class Magnitudes {
 public:
  __device__ explicit Magnitudes(const Weights& w) {
#pragma unroll
    for (int i = 0; i < kBlock / 2; ++i) {
      const uint32_t magnitudes = w.half[i / 4].pair[i % 4] & kMagnitudes;
      values_[2 * i] = low_of(magnitudes);
      values_[2 * i + 1] = high_of(magnitudes);
    }
  }

  // nvfp4_block_loss. Where the quotient is a NaN, because it overflows or the scale is zero, the
  // minimum takes 6, which is what a large quotient rounds to, and times zero is zero.
  template <bool kFast>
  __device__ float loss(float scale, const Divider<kFast>& divide) const {
    float terms[kBlock];
#pragma unroll
    for (int i = 0; i < kBlock; ++i) {
      const float rounded = round_to_e2m1(fminf(divide(values_[i]), kE2m1Max));
      const float error = values_[i] - rounded * scale;
      terms[i] = error * error;
    }
    return tree_sum(terms);
  }

 private:
  float values_[kBlock];
};

struct Choice {
  float loss = std::numeric_limits<float>::infinity();
  int index = 0;

  // Of equal losses the lower index wins, whatever the order.
  __device__ void offer(float other, int other_index) {
    if (other < loss || (other == loss && other_index < index)) {
      loss = other;
      index = other_index;
    }
  }
};

// kFast: candidates are skipped and quotients are exact without a division. Else every code is
// tried with true divisions: at the ends of FP32's range.
template <bool kFast>
struct SweepRule {
  struct Candidate {
    float scale;
    float reciprocal;
  };
  struct Shared {
    Candidate candidates[kE4m3MaxCode + 1];
  };
  static constexpr int kThreads = 256;
  static constexpr int kResident = kFast ? 4 : 3;
  static constexpr int kWindow = 8;
  static constexpr int kFirstNormal = 8;
  Nvfp4SweepTable table;

  __device__ void prepare(Shared& shared) const {
    for (uint32_t code = 1 + threadIdx.x; code <= kE4m3MaxCode; code += kThreads) {
      shared.candidates[code] = {table.scale[code], 1.0f / table.scale[code]};
    }
  }

  __device__ uint8_t operator()(const Weights& w, const Shared& shared) const {
    const Magnitudes magnitudes(w);
    Choice best = {.index = 1};
    if (kFast) {
      try_few(shared, magnitudes, amax_of(w), best);
    } else {
      try_codes(shared, magnitudes, 1, kE4m3MaxCode, best);
    }
    return static_cast<uint8_t>(best.index);
  }

 private:
  __device__ void try_code(const Shared& shared, const Magnitudes& magnitudes, int code,
                           Choice& best) const {
    const Candidate candidate = shared.candidates[code];
    const Divider<kFast> divide(candidate.scale, candidate.reciprocal);
    best.offer(magnitudes.loss(candidate.scale, divide), code);
  }
  __device__ void try_codes(const Shared& shared, const Magnitudes& magnitudes, int first,
                            int count, Choice& best) const {
#pragma unroll 1
    for (int code = first; code < first + count; ++code) {
      try_code(shared, magnitudes, code, best);
    }
  }

  // As nvfp4_search.cc: eight codes from the one nearest to amax / 6.5, which covers the block if
  // it is normal; eight more if it is not; then lower ones until saturation alone costs too much.
  __device__ void try_few(const Shared& shared, const Magnitudes& magnitudes, float amax,
                          Choice& best) const {
    const float ratio = fminf(amax * table.codes_per_amax, kE4m3Max);
    const int nearest = static_cast<int>(e4m3_pair(ratio, 0) & 0xFFu);
    const int first = min(max(nearest, 1), kE4m3MaxCode + 1 - kWindow);
    try_codes(shared, magnitudes, first, first < kFirstNormal ? 2 * kWindow : kWindow, best);
#pragma unroll 1
    for (int code = first - 1; code >= 1; --code) {
      const float error = amax - kE2m1Max * shared.candidates[code].scale;
      if (error > 0 && error * error > best.loss) break;
      try_code(shared, magnitudes, code, best);
    }
  }
};

template <bool kFast>
struct MultipliersRule {
  struct Shared {};
  static constexpr int kThreads = 256;
  static constexpr int kResident = kFast ? 4 : 3;
  Nvfp4Scaling scaling;
  const float* multipliers;
  int n_multipliers;
  float up;  // nvfp4_candidate_up
  float down;

  __device__ void prepare(Shared&) const {}

  __device__ uint8_t operator()(const Weights& w, const Shared&) const {
    const Magnitudes magnitudes(w);
    const float amax = amax_of(w);
    Choice best;
#pragma unroll 1
    for (int i = 0; i < n_multipliers; ++i) {
      const float scale = candidate_scale(amax * __ldg(multipliers + i));
      best.offer(magnitudes.loss(scale, Divider<kFast>(scale)), i);
    }
    return nvfp4_block_scale(amax * __ldg(multipliers + best.index), scaling);
  }

 private:
  // nvfp4_candidate_scale.
  __device__ float candidate_scale(float amax) const {
    const float scale = scale_from_amax(amax, kE2m1Max, scaling.arithmetic);
    return round_to_e4m3(fminf(scale * up, kE4m3Max)) * down;
  }
};

template <bool kAligned>
__device__ Weights load_block(const Bf16* w, uint32_t block) {
  const Bf16* const from = w + static_cast<uint64_t>(block) * kBlock;
  return {{load_eight<kAligned>(from), load_eight<kAligned>(from + 8)}};
}

template <bool kAligned, class Rule>
__global__ void __launch_bounds__(Rule::kThreads, Rule::kResident)
    encode_blocks(const Bf16* w, uint32_t n_blocks, const __grid_constant__ Rule rule,
                  float global_scale, uint8_t* scales, uint2* codes) {
  const uint32_t stride = gridDim.x * Rule::kThreads;
  uint32_t block = blockIdx.x * Rule::kThreads + threadIdx.x;
  Weights next = load_block<kAligned>(w, min(block, n_blocks - 1));

  __shared__ ThresholdTable thresholds;
  __shared__ typename Rule::Shared shared;
  thresholds.build(global_scale);
  rule.prepare(shared);
  __syncthreads();

  for (; block < n_blocks; block += stride) {
    const Weights weights = next;
    next = load_block<kAligned>(w, min(block + stride, n_blocks - 1));
    const uint8_t scale = rule(weights, shared);
    const Thresholds of_scale = thresholds.of(scale);
    scales[block] = scale;
    codes[block] =
        make_uint2(code_eight(weights.half[0], of_scale), code_eight(weights.half[1], of_scale));
  }
}

template <class Rule>
void launch(const TensorView& weight, const Rule& rule, PackedTensor& packed) {
  const int64_t n_blocks = weight.size() / kBlock;
  if (n_blocks == 0) return;
  VERNIER_CHECK(n_blocks < int64_t{1} << 31);  // room for the grid's stride beyond
  const int64_t resident =
      vernier::cuda(weight.device).properties().multiProcessorCount * Rule::kResident;
  const auto grid = static_cast<unsigned>(std::min(ceil_div(n_blocks, Rule::kThreads), resident));
  const Bf16* const w = weight.as<Bf16>().data();
  const float global_scale = packed.plane(PlaneRole::kGlobalScale).as<float>()[0];
  with_flag(is_aligned(w), [&](auto aligned) {
    encode_blocks<aligned(), Rule><<<grid, Rule::kThreads, 0, stream_of(weight.device)>>>(
        w, static_cast<uint32_t>(n_blocks), rule, global_scale,
        packed.plane(PlaneRole::kBlockScales).as<uint8_t>().data(),
        reinterpret_cast<uint2*>(packed.plane(PlaneRole::kCodes).data()));
  });
  check_launch();
}

void encode_multipliers(const TensorView& weight, const ScaleRule& rule,
                        const Nvfp4Scaling& scaling, PackedTensor& packed) {
  const std::vector<float> grid = multiplier_grid(rule);
  const Vector<float> multipliers(std::span<const float>(grid), weight.device);
  const float up = nvfp4_candidate_up(scaling.ga, scaling.peak, scaling.arithmetic);
  const float down = 1.0f / up;
  with_flag(divides_exactly(kE4m3Min * down, kE4m3Max * down), [&](auto fast) {
    const MultipliersRule<fast()> of_kernel = {.scaling = scaling,
                                               .multipliers = multipliers.view().data,
                                               .n_multipliers = static_cast<int>(grid.size()),
                                               .up = up,
                                               .down = down};
    launch(weight, of_kernel, packed);
  });
}

void encode_sweep(const TensorView& weight, const Nvfp4Scaling& scaling, PackedTensor& packed) {
  const Nvfp4SweepTable table(scaling.ga, scaling.arithmetic);
  with_flag(divides_exactly(table.scale[1], table.scale[kE4m3MaxCode]),
            [&](auto fast) { launch(weight, SweepRule<fast()>{.table = table}, packed); });
}

}  // namespace

PackedTensor nvfp4_encode(const TensorView& weight, const EncodeOptions& options) {
  VERNIER_CHECK(weight.dtype == DType::kBF16);
  check_nvfp4_rule(options.rule);
  const Nvfp4Scaling scaling = nvfp4_scaling(weight, options);
  PackedTensor packed = make_packed(kNvfp4Format, weight.shape[0], weight.shape[1], weight.device);
  packed.plane(PlaneRole::kGlobalScale).as<float>()[0] = scaling.global_scale;
  switch (options.rule.method) {
    case ScaleMethod::kMax:
      launch(weight, MaxRule{scaling}, packed);
      break;
    case ScaleMethod::kMultipliers:
      encode_multipliers(weight, options.rule, scaling, packed);
      break;
    case ScaleMethod::kFp8Sweep:
      encode_sweep(weight, scaling, packed);
      break;
  }
  return packed;
}

}  // namespace vernier::formats::cuda
