// The vector primitives, compiled once for each instruction set by Highway. The targets kept are
// the baseline, SSE4, AVX2 and AVX-512; those between bring nothing to FP32 loops.
#include "kernels/vec.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/vec.cc"
#include "hwy/foreach_target.h"  // must come first: it includes this file again for each target

#include "hwy/highway.h"

#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vernier::kernels::vec {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using F64 = hn::ScalableTag<double>;
using F32Half = hn::Rebind<float, F64>;  // as many floats as a vector has doubles
using V32 = hn::Vec<F32>;
using V64 = hn::Vec<F64>;
using V32Half = hn::Vec<F32Half>;
constexpr F32 kF32;
constexpr F64 kF64;
constexpr F32Half kF32Half;

template <class D>
HWY_INLINE int64_t lanes(D d) {
  return static_cast<int64_t>(hn::Lanes(d));
}

// The last, incomplete vector of a row: n values, then `fill`.
template <class D>
HWY_INLINE hn::Vec<D> load_part(D d, const float* x, int64_t n, float fill) {
  HWY_ALIGN float padded[hn::MaxLanes(d)];
  hn::Store(hn::Set(d, fill), d, padded);
  for (int64_t i = 0; i < n; ++i) padded[i] = x[i];
  return hn::Load(d, padded);
}

HWY_INLINE void store_part(V32 v, float* y, int64_t n) {
  HWY_ALIGN float padded[hn::MaxLanes(kF32)];
  hn::Store(v, kF32, padded);
  for (int64_t i = 0; i < n; ++i) y[i] = padded[i];
}

// Calls fn(vector) over x, the tail padded with `fill`.
template <class D, class Fn>
HWY_INLINE void for_each(D d, const float* x, int64_t n, float fill, Fn fn) {
  int64_t i = 0;
  for (; i + lanes(d) <= n; i += lanes(d)) fn(hn::LoadU(d, x + i));
  if (i < n) fn(load_part(d, x + i, n - i, fill));
}

// y = fn(a, b).
template <class Fn>
HWY_INLINE void map_pair(const float* a, const float* b, float* y, int64_t n, Fn fn) {
  int64_t i = 0;
  for (; i + lanes(kF32) <= n; i += lanes(kF32)) {
    hn::StoreU(fn(hn::LoadU(kF32, a + i), hn::LoadU(kF32, b + i)), kF32, y + i);
  }
  if (i < n) {
    const V32 va = load_part(kF32, a + i, n - i, 0);
    const V32 vb = load_part(kF32, b + i, n - i, 0);
    store_part(fn(va, vb), y + i, n - i);
  }
}

HWY_INLINE float sum(V32 v) { return hn::GetLane(hn::SumOfLanes(kF32, v)); }
HWY_INLINE double sum(V64 v) { return hn::GetLane(hn::SumOfLanes(kF64, v)); }

// Highway's Exp turns NaN into 0.
template <class D>
HWY_INLINE hn::Vec<D> exp_keeping_nan(D d, hn::Vec<D> x) {
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(d, x));
}

// x / (1 + exp(-x)) from exp(-|x|) <= 1, which cannot overflow.
HWY_INLINE V32 silu_of(V32 x) {
  const V32 one = hn::Set(kF32, 1.0f);
  const V32 e = hn::Exp(kF32, hn::Neg(hn::Abs(x)));
  const V32 numerator = hn::IfThenElse(hn::Ge(x, hn::Zero(kF32)), one, e);
  return hn::Mul(x, hn::Div(numerator, hn::Add(one, e)));
}

float max(const float* x, int64_t n) {
  const float lowest = -__builtin_inff();
  V32 best = hn::Set(kF32, lowest);
  for_each(kF32, x, n, lowest, [&](V32 v) HWY_ATTR { best = hn::Max(best, v); });
  return hn::GetLane(hn::MaxOfLanes(kF32, best));
}

float sum_squares(const float* x, int64_t n) {
  V32 total = hn::Zero(kF32);
  for_each(kF32, x, n, 0, [&](V32 v) HWY_ATTR { total = hn::MulAdd(v, v, total); });
  return sum(total);
}

float exp_minus(const float* x, float shift, float* y, int64_t n) {
  const V32 shifts = hn::Set(kF32, shift);
  V32 total = hn::Zero(kF32);
  int64_t i = 0;
  for (; i + lanes(kF32) <= n; i += lanes(kF32)) {
    const V32 e = exp_keeping_nan(kF32, hn::Sub(hn::LoadU(kF32, x + i), shifts));
    hn::StoreU(e, kF32, y + i);
    total = hn::Add(total, e);
  }
  if (i < n) {
    const V32 part = load_part(kF32, x + i, n - i, -__builtin_inff());
    const V32 e = exp_keeping_nan(kF32, hn::Sub(part, shifts));
    store_part(e, y + i, n - i);
    total = hn::Add(total, e);
  }
  return sum(total);
}

double sum_exp(const float* x, float shift, int64_t n) {
  const V32Half shifts = hn::Set(kF32Half, shift);
  V64 total = hn::Zero(kF64);
  for_each(kF32Half, x, n, -__builtin_inff(), [&](V32Half v) HWY_ATTR {
    const V32Half e = exp_keeping_nan(kF32Half, hn::Sub(v, shifts));
    total = hn::Add(total, hn::PromoteTo(kF64, e));
  });
  return sum(total);
}

ExpSums sum_exp_times_difference(const float* p, float p_max, const float* q, float q_max,
                                 int64_t n) {
  const V32Half p_shift = hn::Set(kF32Half, p_max);
  const V64 shift = hn::Set(kF64, double{p_max} - q_max);
  V64 total = hn::Zero(kF64);
  V64 weighted = hn::Zero(kF64);
  const auto add_term = [&](V32Half vp, V32Half vq) HWY_ATTR {
    const V64 e = hn::PromoteTo(kF64, exp_keeping_nan(kF32Half, hn::Sub(vp, p_shift)));
    const V64 difference = hn::Sub(hn::PromoteTo(kF64, vp), hn::PromoteTo(kF64, vq));
    const V64 term = hn::Mul(e, hn::Sub(difference, shift));
    total = hn::Add(total, e);
    weighted = hn::Add(weighted, hn::IfThenZeroElse(hn::Eq(e, hn::Zero(kF64)), term));
  };
  const int64_t step = lanes(kF32Half);
  int64_t i = 0;
  for (; i + step <= n; i += step) {
    add_term(hn::LoadU(kF32Half, p + i), hn::LoadU(kF32Half, q + i));
  }
  if (i < n) {
    add_term(load_part(kF32Half, p + i, n - i, -__builtin_inff()),
             load_part(kF32Half, q + i, n - i, 0));
  }
  return {sum(total), sum(weighted)};
}

void conv_silu(const float* const* inputs, const float* taps, int64_t n_taps, const float* bias,
               float* y, int64_t n) {
  int64_t c = 0;
  for (; c + lanes(kF32) <= n; c += lanes(kF32)) {
    V32 v = hn::LoadU(kF32, bias + c);
    for (int64_t j = 0; j < n_taps; ++j) {
      v = hn::MulAdd(hn::LoadU(kF32, taps + j * n + c), hn::LoadU(kF32, inputs[j] + c), v);
    }
    hn::StoreU(silu_of(v), kF32, y + c);
  }
  if (c < n) {
    V32 v = load_part(kF32, bias + c, n - c, 0);
    for (int64_t j = 0; j < n_taps; ++j) {
      const V32 tap = load_part(kF32, taps + j * n + c, n - c, 0);
      v = hn::MulAdd(tap, load_part(kF32, inputs[j] + c, n - c, 0), v);
    }
    store_part(silu_of(v), y + c, n - c);
  }
}

void multiply_silu(const float* x, const float* gate, float* y, int64_t n) {
  map_pair(x, gate, y, n, [](V32 v, V32 g) HWY_ATTR { return hn::Mul(v, silu_of(g)); });
}

// A block of kW x kX dot products held in registers.
template <int kW, int kX>
HWY_INLINE void dot_block(const float* w, int64_t w_stride, const float* x, int64_t x_stride,
                          int64_t n, float* y, int64_t y_stride) {
  V32 sums[kW][kX];
  for (int row = 0; row < kW; ++row) {
    for (int token = 0; token < kX; ++token) sums[row][token] = hn::Zero(kF32);
  }
  const auto accumulate = [&](auto load) HWY_ATTR {
    V32 xs[kX];
    for (int token = 0; token < kX; ++token) xs[token] = load(x + token * x_stride);
    for (int row = 0; row < kW; ++row) {
      const V32 ws = load(w + row * w_stride);
      for (int token = 0; token < kX; ++token) {
        sums[row][token] = hn::MulAdd(ws, xs[token], sums[row][token]);
      }
    }
  };
  int64_t i = 0;
  for (; i + lanes(kF32) <= n; i += lanes(kF32)) {
    accumulate([=](const float* from) HWY_ATTR { return hn::LoadU(kF32, from + i); });
  }
  if (i < n) {
    accumulate([=](const float* from) HWY_ATTR { return load_part(kF32, from + i, n - i, 0); });
  }
  for (int row = 0; row < kW; ++row) {
    for (int token = 0; token < kX; ++token) y[token * y_stride + row] = sum(sums[row][token]);
  }
}

// kX rows of x against all of w, four rows of w at a time.
template <int kX>
void dot_columns(Rows w, const float* x, int64_t x_stride, int64_t n, float* y, int64_t y_stride) {
  int64_t row = 0;
  for (; row + 4 <= w.n_rows; row += 4) {
    dot_block<4, kX>(w.data + row * w.stride, w.stride, x, x_stride, n, y + row, y_stride);
  }
  for (; row < w.n_rows; ++row) {
    dot_block<1, kX>(w.data + row * w.stride, w.stride, x, x_stride, n, y + row, y_stride);
  }
}

void dots(Rows w, Rows x, int64_t n, float* y, int64_t y_stride) {
  int64_t token = 0;
  for (; token + 4 <= x.n_rows; token += 4) {
    dot_columns<4>(w, x.data + token * x.stride, x.stride, n, y + token * y_stride, y_stride);
  }
  const float* rest = x.data + token * x.stride;
  float* rest_y = y + token * y_stride;
  if (x.n_rows - token == 3) dot_columns<3>(w, rest, x.stride, n, rest_y, y_stride);
  if (x.n_rows - token == 2) dot_columns<2>(w, rest, x.stride, n, rest_y, y_stride);
  if (x.n_rows - token == 1) dot_columns<1>(w, rest, x.stride, n, rest_y, y_stride);
}

void ssm_step(const SsmStep& step, float* state, int64_t state_stride, float* y) {
  const V32 decay = hn::Set(kF32, step.decay);
  const int64_t n = step.state_dim;
  for (int64_t p = 0; p < step.head_dim; ++p) {
    float* row = state + p * state_stride;
    const V32 input = hn::Set(kF32, step.dt * step.x[p]);
    V32 total = hn::Zero(kF32);
    int64_t i = 0;
    for (; i + lanes(kF32) <= n; i += lanes(kF32)) {
      const V32 driven = hn::Mul(input, hn::LoadU(kF32, step.b + i));
      const V32 next = hn::MulAdd(decay, hn::LoadU(kF32, row + i), driven);
      hn::StoreU(next, kF32, row + i);
      total = hn::MulAdd(next, hn::LoadU(kF32, step.c + i), total);
    }
    if (i < n) {
      const V32 driven = hn::Mul(input, load_part(kF32, step.b + i, n - i, 0));
      const V32 next = hn::MulAdd(decay, load_part(kF32, row + i, n - i, 0), driven);
      store_part(next, row + i, n - i);
      total = hn::MulAdd(next, load_part(kF32, step.c + i, n - i, 0), total);
    }
    y[p] = sum(total) + step.skip * step.x[p];
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace vernier::kernels::vec
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vernier::kernels::vec {

HWY_EXPORT(max);
HWY_EXPORT(sum_squares);
HWY_EXPORT(exp_minus);
HWY_EXPORT(sum_exp);
HWY_EXPORT(sum_exp_times_difference);
HWY_EXPORT(conv_silu);
HWY_EXPORT(multiply_silu);
HWY_EXPORT(dots);
HWY_EXPORT(ssm_step);

float max(const float* x, int64_t n) { return HWY_DYNAMIC_DISPATCH(max)(x, n); }

float sum_squares(const float* x, int64_t n) { return HWY_DYNAMIC_DISPATCH(sum_squares)(x, n); }

float exp_minus(const float* x, float shift, float* y, int64_t n) {
  return HWY_DYNAMIC_DISPATCH(exp_minus)(x, shift, y, n);
}

double sum_exp(const float* x, float shift, int64_t n) {
  return HWY_DYNAMIC_DISPATCH(sum_exp)(x, shift, n);
}

ExpSums sum_exp_times_difference(const float* p, float p_max, const float* q, float q_max,
                                 int64_t n) {
  return HWY_DYNAMIC_DISPATCH(sum_exp_times_difference)(p, p_max, q, q_max, n);
}

void conv_silu(const float* const* inputs, const float* taps, int64_t n_taps, const float* bias,
               float* y, int64_t n) {
  HWY_DYNAMIC_DISPATCH(conv_silu)(inputs, taps, n_taps, bias, y, n);
}

void multiply_silu(const float* x, const float* gate, float* y, int64_t n) {
  HWY_DYNAMIC_DISPATCH(multiply_silu)(x, gate, y, n);
}

void dots(Rows w, Rows x, int64_t n, float* y, int64_t y_stride) {
  HWY_DYNAMIC_DISPATCH(dots)(w, x, n, y, y_stride);
}

void ssm_step(const SsmStep& step, float* state, int64_t state_stride, float* y) {
  HWY_DYNAMIC_DISPATCH(ssm_step)(step, state, state_stride, y);
}

}  // namespace vernier::kernels::vec
#endif  // HWY_ONCE
