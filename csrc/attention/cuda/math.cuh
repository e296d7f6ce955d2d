// SPDX-License-Identifier: MIT
// The policy through which score_mod.h and online_softmax.h compute. Scores are in bits, not in
// nats: a weight is 2^(score - row_max), one instruction.
#pragma once

#include "../online_softmax.h"
#include "ptx.cuh"

namespace guide::cuda {

constexpr float kLn2 = 0.6931471805599453f;

struct Math {
  static GUIDE_DEVICE float broadcast(float value) { return value; }
  static GUIDE_DEVICE float negative_infinity() { return -__uint_as_float(0x7f800000u); }
  static GUIDE_DEVICE float mul(float a, float b) { return a * b; }
  static GUIDE_DEVICE float sub(float a, float b) { return a - b; }
  static GUIDE_DEVICE float fmadd(float a, float b, float c) { return fmaf(a, b, c); }
  static GUIDE_DEVICE float exp(float bits) { return ptx::exp2(bits); }
  static GUIDE_DEVICE float tanh(float a) { return tanhf(a); }
  static GUIDE_DEVICE float select_equal(float a, float b, float if_equal, float otherwise) {
    return a == b ? if_equal : otherwise;
  }
  static GUIDE_DEVICE float clamp(float a, float limit) {
    return -ptx::max_or_nan(-ptx::max_or_nan(a, -limit), -limit);
  }
};

}  // namespace guide::cuda
