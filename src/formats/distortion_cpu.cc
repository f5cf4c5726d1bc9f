#include "formats/distortion_cpu.h"

#include <cmath>

#include "formats/bf16.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "formats/distortion_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "formats/codes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vernier::formats::HWY_NAMESPACE {
namespace {

using Doubles = hn::CappedTag<double, 8>;
using Floats = hn::Rebind<float, Doubles>;

// sums[i] += x^2.
HWY_INLINE void AddSquares(hn::Vec<Floats> x, double* HWY_RESTRICT sums) {
  const Doubles d;
  const auto wide = hn::PromoteTo(d, x);
  hn::StoreU(hn::Add(hn::LoadU(d, sums), hn::Mul(wide, wide)), d, sums);
}

void Add(const uint16_t* HWY_RESTRICT w, const float* HWY_RESTRICT decoded, int64_t count,
         float limit, DistortionSums& sums) {
  const Floats d;
  const auto n = static_cast<int64_t>(hn::Lanes(d));
  const auto zero = hn::Zero(d);
  int64_t i = 0;
  for (; i + n <= count; i += n) {
    const auto value = LoadBf16(d, w + i);
    const auto back = hn::LoadU(d, decoded + i);
    AddSquares(value, &sums.signal[static_cast<size_t>(i % 16)]);
    AddSquares(hn::Sub(value, back), &sums.noise[static_cast<size_t>(i % 16)]);
    const auto flushed = hn::And(hn::Ne(value, zero), hn::Eq(back, zero));
    const auto saturated = hn::Gt(hn::Abs(value), hn::Set(d, limit));
    sums.n_flushed += static_cast<int64_t>(hn::CountTrue(d, flushed));
    sums.n_saturated += static_cast<int64_t>(hn::CountTrue(d, saturated));
  }
  for (; i < count; ++i) {
    const float value = bf16_to_float(w[i]);
    const double error = value - decoded[i];
    sums.signal[static_cast<size_t>(i % 16)] += static_cast<double>(value) * value;
    sums.noise[static_cast<size_t>(i % 16)] += error * error;
    sums.n_flushed += value != 0 && decoded[i] == 0;
    sums.n_saturated += std::fabs(value) > limit;
  }
}

}  // namespace
}  // namespace vernier::formats::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vernier::formats {

HWY_EXPORT(Add);

void add_distortion(const uint16_t* w, const float* decoded, int64_t count, float limit,
                    DistortionSums& sums) {
  HWY_DYNAMIC_DISPATCH(Add)(w, decoded, count, limit, sums);
}

}  // namespace vernier::formats
#endif
