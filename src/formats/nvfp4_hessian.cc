// The search on the host: a row of the weight is one thread's, and a block's candidate scales lie
// in the lanes of vectors. About 480 operations for a block and a vector of scales.
//
// All codes are tried, but for one exact shortcut. The sweep's proof that few suffice
// (nvfp4_search.cc) is about each weight's own error; a Hessian has cross terms, which let a larger
// error of one weight make up for another's, so it does not carry over. What holds: where 4 ba <= s
// every quotient is at most 1/4, so that all weights round to zero, and do so for all larger scales
// as well (a rounded quotient does not grow with the divisor). Their dw is w, their loss the same
// number, and of equal losses the lowest code wins: no code beyond the first such one can.
#include "formats/nvfp4_hessian.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/check.h"
#include "formats/bf16.h"
#include "formats/nvfp4_search.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "formats/nvfp4_hessian.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "formats/codes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vernier::formats::HWY_NAMESPACE {
namespace {

constexpr int kBlock = static_cast<int>(kNvfp4Block);
constexpr hn::CappedTag<float, 16> kLanes = {};
using Lanes = hn::Vec<decltype(kLanes)>;

// One number for each weight of a block and each lane.
struct Grid {
  alignas(64) float values[kBlock * 16];

  HWY_INLINE Lanes get(int i) const { return hn::Load(kLanes, values + i * 16); }
  HWY_INLINE void set(int i, Lanes lanes) { hn::Store(lanes, kLanes, values + i * 16); }
};

// w - q(w) at a vector of scales.
HWY_INLINE Lanes Error(float w, Lanes scale) {
  const auto magnitude = hn::Set(kLanes, std::fabs(w));
  const auto quotient = hn::Min(hn::Div(magnitude, scale), hn::Set(kLanes, kE2m1Max));
  const auto rounded = hn::Mul(RoundMagnitude<E2m1Grid>(kLanes, quotient), scale);
  const auto sign = hn::Set(kLanes, std::copysign(1.0f, w));
  return hn::Mul(sign, hn::Sub(magnitude, rounded));
}

// nvfp4_hessian_loss at a vector of scales.
HWY_INLINE Lanes Losses(const float* w, const float* triangle, Lanes scale) {
  Grid dw;
  for (int i = 0; i < kBlock; ++i) dw.set(i, Error(w[i], scale));
  Grid sum;
  for (int i = 0; i < kBlock; ++i) {
    const float* const row = triangle + nvfp4_triangle_index(i, i);
    auto t = hn::Mul(hn::Set(kLanes, row[0]), dw.get(i));
    for (int j = i + 1; j < kBlock; ++j) {
      t = hn::Add(t, hn::Mul(hn::Set(kLanes, row[j - i]), dw.get(j)));
    }
    sum.set(i, hn::Mul(dw.get(i), t));
  }
  for (int width = 1; width < kBlock; width *= 2) {
    for (int i = 0; i < kBlock; i += 2 * width) {
      sum.set(i, hn::Add(sum.get(i), sum.get(i + width)));
    }
  }
  return sum.get(0);
}

// A loss that is not a number never wins: that of code 0, whose scale is infinite, is one.
HWY_INLINE uint8_t BestCode(const float* w, const float* triangle, const Nvfp4SweepTable& table) {
  float amax = 0;
  for (int i = 0; i < kBlock; ++i) amax = std::max(amax, std::fabs(w[i]));
  const hn::RebindToSigned<decltype(kLanes)> di;
  const int n = static_cast<int>(hn::Lanes(kLanes));
  auto least = hn::Set(kLanes, std::numeric_limits<float>::infinity());
  auto best_code = hn::Set(di, 1);
  for (int first = 0; first < 128; first += n) {
    if (first > 1 && 4 * amax <= table.scale[static_cast<size_t>(first - 1)]) break;
    const auto losses = Losses(w, triangle, hn::LoadU(kLanes, table.scale.data() + first));
    const auto better = hn::Lt(losses, least);
    const auto codes = hn::Add(hn::Iota(di, 0), hn::Set(di, first));
    least = hn::IfThenElse(better, losses, least);
    best_code = hn::IfThenElse(hn::RebindMask(di, better), codes, best_code);
  }
  const auto is_least = hn::RebindMask(di, hn::Eq(least, hn::MinOfLanes(kLanes, least)));
  const auto codes = hn::IfThenElse(is_least, best_code, hn::Set(di, 127));
  return static_cast<uint8_t>(hn::GetLane(hn::MinOfLanes(di, codes)));
}

void ChooseRow(const uint16_t* row, int64_t n_blocks, const float* triangles,
               const Nvfp4SweepTable& table, uint8_t* scales) {
  for (int64_t block = 0; block < n_blocks; ++block) {
    float w[kBlock];
    for (int i = 0; i < kBlock; ++i) w[i] = bf16_to_float(row[block * kBlock + i]);
    scales[block] = BestCode(w, triangles + block * kNvfp4TriangleElems, table);
  }
}

}  // namespace
}  // namespace vernier::formats::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vernier::formats {
namespace {

// The identity for a Hessian of zeros.
void fill_triangle(const float* hessian, float* triangle) {
  bool is_zero = true;
  for (int i = 0; i < kNvfp4Block; ++i) {
    for (int j = i; j < kNvfp4Block; ++j) {
      const float elem = nvfp4_triangle_elem(hessian, i, j);
      triangle[nvfp4_triangle_index(i, j)] = elem;
      is_zero = is_zero && elem == 0;
    }
  }
  if (!is_zero) return;
  for (int i = 0; i < kNvfp4Block; ++i) triangle[nvfp4_triangle_index(i, i)] = 1;
}

}  // namespace

HWY_EXPORT(ChooseRow);

void nvfp4_choose_hessian_scales(const TensorView& weight, VectorView<const float> hessians,
                                 float ga, Arithmetic arithmetic, uint8_t* scales) {
  VERNIER_CHECK(weight.dtype == DType::kBF16 && weight.shape.size() == 2);
  const int64_t n = weight.shape[0], k = weight.shape[1];
  VERNIER_CHECK(k % kNvfp4Block == 0 && hessians.size == k * kNvfp4Block);
  VERNIER_CHECK(hessians.device == weight.device);
  if (weight.device != nullptr) {
    return cuda::nvfp4_choose_hessian_scales(weight, hessians, ga, arithmetic, scales);
  }
  const int64_t n_blocks = k / kNvfp4Block;
  std::vector<float> triangles(static_cast<size_t>(n_blocks * kNvfp4TriangleElems));
  for (int64_t block = 0; block < n_blocks; ++block) {
    fill_triangle(hessians.data + block * kNvfp4HessianElems,
                  triangles.data() + block * kNvfp4TriangleElems);
  }
  const Nvfp4SweepTable table(ga, arithmetic);
  const uint16_t* const w = weight.as<uint16_t>().data();
#pragma omp parallel for schedule(static) if (n > 1)
  for (int64_t row = 0; row < n; ++row) {
    HWY_DYNAMIC_DISPATCH(ChooseRow)
    (w + row * k, n_blocks, triangles.data(), table, scales + row * n_blocks);
  }
}

}  // namespace vernier::formats
#endif
