// SPDX-License-Identifier: MIT
// Elementary functions on vectors, and the policy through which score_mod.h and online_softmax.h
// use them.
#pragma once

#include "simd-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {

// e^x for x <= 0.
//
// x = n*ln2 + r with |r| <= ln2/2; e^r is a polynomial of degree 6 (relative truncation 3e-9, 1 at
// r = 0 exactly); 2^n is put together from its exponent bits. Relative error below 1e-7 on
// [-87.3, 0], measured with fused multiply-adds on every 101st float; 0 below that, where the
// result would be denormal. NaN stays NaN: it reaches the result through the polynomial, whatever
// its bits make of 2^n.
GUIDE_INLINE VecF exp_nonpositive(VecF x) {
  constexpr float kLowest = -87.33654f;  // log of the smallest normal number
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;  // few bits, so that n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits; 127 is the bias of the
  // exponent.
  constexpr float kRound = 12582912.f + 127.f;

  const VecI is_tiny = x < broadcast(kLowest);
  const VecF clamped = select(is_tiny, broadcast(kLowest), x);
  const VecF rounded = fmadd(clamped, broadcast(kLog2E), broadcast(kRound));
  const VecF n = rounded - kRound;
  VecF r = fmadd(n, broadcast(-kLn2High), clamped);
  r = fmadd(n, broadcast(-kLn2Low), r);
  VecF p = broadcast(1.38144962e-3f);
  p = fmadd(p, r, broadcast(8.36875217e-3f));
  p = fmadd(p, r, broadcast(4.16683923e-2f));
  p = fmadd(p, r, broadcast(1.66665203e-1f));
  p = fmadd(p, r, broadcast(4.99999934e-1f));
  p = fmadd(p, r, broadcast(1.f));
  p = fmadd(p, r, broadcast(1.f));
  const VecF power = (VecF)((VecI)rounded << 23);
  return select(is_tiny, broadcast(0.f), p * power);
}

// tanh(x), relative error below 2e-7, measured in the same way. Near 0 an odd polynomial (Cephes
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

struct VectorMath {
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
};

}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
