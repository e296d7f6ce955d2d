// SPDX-License-Identifier: MIT
// The order in which a raw dot product becomes a score, and which keys a row sees. The only home
// of both: every CPU instruction set and every CUDA kernel goes through these functions.
#pragma once

#include <cstdint>
#include <limits>

#include "params.h"

#ifdef __CUDACC__
#define GUIDE_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define GUIDE_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace guide {

// Unit of scores in bits; that of scores in nats is 1.
constexpr double kBitsPerNat = 1.4426950408889634;  // log2(e)

constexpr float kLargestFloat = std::numeric_limits<float>::max();

// Largest scale, soft-cap and quotient of the two: rounded to float and in bits, all are finite.
constexpr double kLargestFactor = 2.35e38;
static_assert(kLargestFactor * kBitsPerNat < kLargestFloat, "with room to round");

// The two factors of a score, in a unit.
struct ScoreFactors {
  float inner;  // of the dot product, before tanh; unused without a soft-cap
  float outer;  // after it
};

GUIDE_HOST_DEVICE ScoreFactors score_factors(float scale, float softcap, double unit) {
  if (softcap == 0.f) return {0.f, static_cast<float>(scale * unit)};
  return {scale / softcap, static_cast<float>(softcap * unit)};
}

// A bias or a sink that came in double. A finite one stays finite, as in bias_in_unit.
GUIDE_HOST_DEVICE float bias_from_double(double nats) {
  constexpr double kLargestDouble = std::numeric_limits<double>::max();
  if (nats > kLargestFloat && nats <= kLargestDouble) return kLargestFloat;
  if (nats < -kLargestFloat && nats >= -kLargestDouble) return -kLargestFloat;
  return static_cast<float>(nats);
}

// A bias or a sink in a unit. A finite one stays finite, as -inf alone hides a key: what the unit
// would make infinite becomes the largest number of its sign.
//
// `Math` supplies mul(a, b), broadcast(float), select_equal(a, b, if_equal, otherwise) and
// clamp(a, limit), which is `a` within [-limit, limit] and keeps NaN.
template <class Math, class Number>
GUIDE_HOST_DEVICE Number bias_in_unit(Number nats, double unit) {
  const Number product = Math::mul(nats, Math::broadcast(static_cast<float>(unit)));
  const Number clamped = Math::clamp(product, Math::broadcast(kLargestFloat));
  // An infinite bias equals its product; so does 0, and a NaN is clamped to NaN.
  return Math::select_equal(product, nats, nats, clamped);
}

// score = softcap * tanh(scale * dot / softcap) + bias, or scale * dot + bias without a soft-cap.
//
// `Math` supplies fmadd(a, b, c), mul(a, b), broadcast(float) and tanh(a) for `Number`, a scalar
// or a vector. The bias comes after the soft-cap: a delta of d nats multiplies a key's weight by
// e^d whatever the cap is. It has the unit of the factors.
template <bool kSoftcap, class Math, class Number>
GUIDE_HOST_DEVICE Number score_of(Number dot, ScoreFactors factors, Number bias) {
  const Number outer = Math::broadcast(factors.outer);
  if constexpr (kSoftcap) {
    return Math::fmadd(Math::tanh(Math::mul(dot, Math::broadcast(factors.inner))), outer, bias);
  } else {
    return Math::fmadd(dot, outer, bias);
  }
}

// Derivative of the soft-cap: of score_of() by scale * dot, both in one unit.
template <class Math, class Number>
GUIDE_HOST_DEVICE Number softcap_slope(Number dot, ScoreFactors factors) {
  const Number capped = Math::tanh(Math::mul(dot, Math::broadcast(factors.inner)));
  return Math::sub(Math::broadcast(1.f), Math::mul(capped, capped));
}

// Half-open range of keys [begin, end).
struct KeyRange {
  std::int64_t begin;
  std::int64_t end;
};

// Keys that the row at `position` of the key axis sees through the causal mask and the window.
// attn_bias may hide some of them again. An empty range has begin >= end.
GUIDE_HOST_DEVICE KeyRange visible_keys(const AttentionParams& params, std::int64_t position) {
  // Windows are cut to 2^62 so that no sum with a 32-bit position can overflow.
  constexpr std::int64_t kUnlimited = std::int64_t{1} << 62;
  KeyRange range{0, params.seqlen_k};
  if (params.window_left >= 0) {
    const std::int64_t left = params.window_left < kUnlimited ? params.window_left : kUnlimited;
    if (position - left > range.begin) range.begin = position - left;
  }
  if (params.window_right >= 0) {
    const std::int64_t right = params.window_right < kUnlimited ? params.window_right : kUnlimited;
    if (position + right + 1 < range.end) range.end = position + right + 1;
  }
  if (params.is_causal && position + 1 < range.end) range.end = position + 1;
  return range;
}

// Position of query row `q_idx` on the key axis. Rows align to the bottom right by default.
GUIDE_HOST_DEVICE std::int64_t position_of(const AttentionParams& params, std::int64_t batch_idx,
                                           std::int64_t q_idx) {
  const std::int64_t start = params.q_start != nullptr
                                 ? params.q_start[batch_idx * params.q_start_stride]
                                 : params.seqlen_k - params.seqlen_q;
  return start + q_idx;
}

}  // namespace guide
