// SPDX-License-Identifier: MIT
// Elementary functions on vectors, and the policy through which score_mod.h and online_softmax.h
// use them.
#pragma once

#include "../score_mod.h"
#include "simd-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {

constexpr auto kLog2E = static_cast<float>(kBitsPerNat);

// 2^x for x <= 0, relative error below 2e-7 on [-126, 0], measured on every 101st float. Exactly
// 1 at 0; 0 at -inf; 0 or a denormal number below -126; NaN stays NaN.
//
// x = n + f with an integer n. 2^f is a polynomial of degree 5 whose constant is 1, minimax among
// those in relative error: 8.2e-8 on [0, 1], 9.1e-8 on [-1/2, 1/2].
GUIDE_INLINE VecF exp2_nonpositive(VecF x) {
#if defined(__AVX512DQ__)
  // Both instructions round x down, and both know what to do with -inf and NaN.
  constexpr int kMinusFloor = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
  const VecF f = _mm512_maskz_reduce_ps(kAllLanes, x, kMinusFloor);
  VecF p = broadcast(1.86713008e-3f);
  p = fmadd(p, f, broadcast(9.01703028e-3f));
  p = fmadd(p, f, broadcast(5.57999131e-2f));
  p = fmadd(p, f, broadcast(2.40164450e-1f));
  p = fmadd(p, f, broadcast(6.93151312e-1f));
  p = fmadd(p, f, broadcast(1.f));
  return _mm512_maskz_scalef_ps(kAllLanes, p, x);
#else
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits; 127 is the bias of the
  // exponent.
  constexpr float kRound = 12582912.f + 127.f;
  // There the exponent's bits, and with them 2^n, are 0.
  constexpr float kLowest = -127.f;
  const VecF clamped = max_or_second(broadcast(kLowest), x);
  const VecF rounded = clamped + kRound;
  const VecF f = clamped - (rounded - kRound);
  VecF p = broadcast(1.32647271e-3f);
  p = fmadd(p, f, broadcast(9.67151264e-3f));
  p = fmadd(p, f, broadcast(5.55073374e-2f));
  p = fmadd(p, f, broadcast(2.40222421e-1f));
  p = fmadd(p, f, broadcast(6.93146978e-1f));
  p = fmadd(p, f, broadcast(1.f));
  // A NaN reaches the result through the polynomial, whatever its bits make of 2^n.
  const VecF power = (VecF)((VecI)rounded << 23);
  return p * power;
#endif
}

// e^x for x <= 0. Exactly 1 at 0; the rounding of the product is the relative error's larger part
// for large |x|, where the result is small: its absolute error stays below 2e-7.
GUIDE_INLINE VecF exp_nonpositive(VecF x) { return exp2_nonpositive(x * broadcast(kLog2E)); }

// tanh(x), relative error below 3e-7, measured in the same way. Near 0 an odd polynomial (Cephes
// tanhf), elsewhere (1 - e) / (1 + e) with e = exp(-2|x|), where nothing cancels.
GUIDE_INLINE VecF tanh_of(VecF x) {
  const VecF magnitude = absolute(x);
  const VecF square = x * x;
  VecF p = broadcast(-5.70498872745e-3f);
  p = fmadd(p, square, broadcast(2.06390887954e-2f));
  p = fmadd(p, square, broadcast(-5.37397155531e-2f));
  p = fmadd(p, square, broadcast(1.33314422036e-1f));
  p = fmadd(p, square, broadcast(-3.33332819422e-1f));
  const VecF near_zero = fmadd(p * square, x, x);

  const VecF e = exp_nonpositive(magnitude * -2.f);
  const VecF far = (1.f - e) / (1.f + e);
  const VecF signed_far = (VecF)((VecI)far | ((VecI)x & (std::int32_t)0x80000000));
  return select(magnitude < broadcast(0.625f), near_zero, signed_far);
}

// Scores in nats.
struct VectorMath {
  static constexpr double kUnit = 1;
  static GUIDE_INLINE VecF broadcast(float value) { return GUIDE_CPU_NAMESPACE::broadcast(value); }
  static GUIDE_INLINE VecF negative_infinity() { return broadcast(-kInfinity); }
  static GUIDE_INLINE VecF mul(VecF a, VecF b) { return a * b; }
  static GUIDE_INLINE VecF sub(VecF a, VecF b) { return a - b; }
  static GUIDE_INLINE VecF fmadd(VecF a, VecF b, VecF c) {
    return GUIDE_CPU_NAMESPACE::fmadd(a, b, c);
  }
  static GUIDE_INLINE VecF exp(VecF a) { return exp_nonpositive(a); }
  static GUIDE_INLINE VecF tanh(VecF a) { return tanh_of(a); }
  static GUIDE_INLINE VecF select_equal(VecF a, VecF b, VecF if_equal, VecF otherwise) {
    return select(a == b, if_equal, otherwise);
  }
  static GUIDE_INLINE VecF clamp(VecF a, VecF limit) {
    return select(a > limit, limit, select(a < -limit, -limit, a));
  }
};

// Scores in bits: a weight is 2^(score - row_max).
struct BitsMath : VectorMath {
  static constexpr double kUnit = kBitsPerNat;
  static GUIDE_INLINE VecF exp(VecF a) { return exp2_nonpositive(a); }
};

}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
