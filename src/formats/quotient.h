// Division of BF16 numbers by a common divisor without the division's cost. Bytes depend on
// quotients rounded exactly as FP32 division rounds them, so a product with the reciprocal alone
// will not do; one correction makes it exact.
#pragma once

#include <cmath>

#include "formats/host_device.h"

namespace vernier::formats {

// Divisors from 2^-60 to 2^60 leave room for the correction's bits.
constexpr bool divides_exactly(float least_divisor, float largest_divisor) {
  return least_divisor >= 0x1p-60f && largest_divisor <= 0x1p60f;
}

// a / d rounded to nearest, for a BF16 number a >= 0 and r = 1 / d rounded to nearest. REQUIRES:
// divides_exactly(d, d). Two exceptions: a quotient below 2^-16 may be off in its last places (no
// format has a code that small), and one that overflows is a NaN (a minimum in the manner of fminf
// then gives the other operand, the saturation).
//
// The first product q is off by at most 1.5 units in the last place; its remainder a - q d needs
// few bits and scaled by r corrects it. That the result is the rounded quotient was checked for all
// 2^30 pairs of mantissas (8 bits of a, 24 of d); powers of two do not matter, since at these sizes
// nothing underflows: the remainder is a multiple of 2^-122.
VERNIER_HD inline float bf16_quotient(float a, float d, float r) {
  const float q = a * r;
  return fmaf(fmaf(-q, d, a), r, q);
}

}  // namespace vernier::formats
