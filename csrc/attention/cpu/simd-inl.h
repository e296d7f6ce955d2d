// SPDX-License-Identifier: MIT
// The vector layer: one width per instruction set, on the compiler's vector types.
//
// Included once by each instruction-set unit, which defines GUIDE_CPU_NAMESPACE first, and
// GUIDE_CPU_NEON for the vectors of 64-bit ARM: its compilers have no switch for them. Everything
// lives in an anonymous namespace and is built from compiler built-ins: an inline function of the
// standard library would be a weak symbol, and the linker might keep its AVX-512 copy for all.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(GUIDE_CPU_NEON)
#include <arm_neon.h>
#endif

#define GUIDE_INLINE inline __attribute__((always_inline))

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kRegisters = 32;
constexpr int kWideVectors = 2;    // vectors of rows in a tile of prefill, at most
constexpr int kNarrowVectors = 2;  // and at least
constexpr int kDotKeys = 8;        // keys of a dot-product micro-tile: 16 registers accumulate
constexpr int kValueDims = 8;      // value dimensions of a micro-tile: 16 registers again
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kRegisters = 16;
constexpr int kWideVectors = 3;
constexpr int kNarrowVectors = 2;
constexpr int kDotKeys = 4;  // 8 or 12 registers accumulate
constexpr int kValueDims = 4;
#elif defined(GUIDE_CPU_NEON)
constexpr int kLanes = 4;
constexpr int kRegisters = 32;
// 16 accumulators keep four units of four cycles busy, which is all that any processor has. With
// 24 the compiler runs out of registers for the operands.
constexpr int kWideVectors = 4;
constexpr int kNarrowVectors = 4;
constexpr int kDotKeys = 4;
constexpr int kValueDims = 4;
#else
constexpr int kLanes = 4;
constexpr int kRegisters = 16;
constexpr int kWideVectors = 2;
constexpr int kNarrowVectors = 2;
constexpr int kDotKeys = 4;
constexpr int kValueDims = 4;
#endif

#if defined(__AVX512F__)
// GCC 12 warns of the unmasked forms of some intrinsics, whose headers use an undefined vector.
// This mask costs nothing.
constexpr __mmask16 kAllLanes = 0xffff;
#endif

using VecF = float __attribute__((vector_size(kLanes * sizeof(float))));
using VecI = std::int32_t __attribute__((vector_size(kLanes * sizeof(std::int32_t))));

GUIDE_INLINE VecF load(const float* source) {
  VecF result;
  __builtin_memcpy(&result, source, sizeof(result));
  return result;
}

GUIDE_INLINE VecI load(const std::int32_t* source) {
  VecI result;
  __builtin_memcpy(&result, source, sizeof(result));
  return result;
}

GUIDE_INLINE void store(float* target, VecF value) {
  __builtin_memcpy(target, &value, sizeof(value));
}

GUIDE_INLINE VecF broadcast(float value) {
#if defined(__AVX512F__)
  return _mm512_set1_ps(value);
#elif defined(__AVX2__)
  return _mm256_set1_ps(value);
#elif defined(GUIDE_CPU_NEON)
  return vdupq_n_f32(value);
#else
  return VecF{value, value, value, value};
#endif
}

// a * b + c. Written out, and contraction switched off for these units, so that no compiler's
// choice of where to fuse can make two specialisations differ in the last bit.
GUIDE_INLINE VecF fmadd(VecF a, VecF b, VecF c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(GUIDE_CPU_NEON)
  return vfmaq_f32(c, a, b);
#elif defined(__FP_FAST_FMAF)
  VecF result;
  for (int lane = 0; lane < kLanes; ++lane) {
    result[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
  }
  return result;
#else
  return a * b + c;
#endif
}

GUIDE_INLINE VecF select(VecI mask, VecF if_true, VecF if_false) {
  return mask ? if_true : if_false;
}

GUIDE_INLINE bool any(VecI mask) {
#if defined(GUIDE_CPU_NEON)
  return vmaxvq_u32((uint32x4_t)mask) != 0;
#else
  std::int32_t result = 0;
  for (int lane = 0; lane < kLanes; ++lane) result |= mask[lane];
  return result != 0;
#endif
}

// The larger one; `b` where either is NaN.
GUIDE_INLINE VecF max_or_second(VecF a, VecF b) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(kAllLanes, a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return select(a > b, a, b);
#endif
}

// rows[i][lane] = rows[lane][i].
GUIDE_INLINE void transpose(VecF (&rows)[kLanes]) {
#if defined(__AVX512F__)
  const VecI lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#pragma GCC unroll 4
  for (int step = 1; step < kLanes; step *= 2) {
    // Lanes from kLanes on are those of the second operand.
    const VecI is_odd = (lanes & step) != 0;
    const VecI even = is_odd ? lanes - step + kLanes : lanes;
    const VecI odd = is_odd ? lanes + kLanes : lanes + step;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if ((i & step) != 0) continue;
      const VecF first = rows[i];
      const VecF second = rows[i + step];
      rows[i] = _mm512_permutex2var_ps(first, (__m512i)even, second);
      rows[i + step] = _mm512_permutex2var_ps(first, (__m512i)odd, second);
    }
  }
#elif defined(__AVX2__)
  // Within halves of vectors first, then the halves.
  VecF pairs[kLanes], quads[kLanes];
#pragma GCC unroll 4
  for (int i = 0; i < kLanes; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < kLanes; i += 4) {
    quads[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
    quads[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
    quads[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
    quads[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
    rows[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
  }
#else
  static_assert(kLanes == 4);
  const VecF a = rows[0], b = rows[1], c = rows[2], d = rows[3];
  for (int i = 0; i < kLanes; ++i) rows[i] = VecF{a[i], b[i], c[i], d[i]};
#endif
}

GUIDE_INLINE VecF absolute(VecF a) { return (VecF)((VecI)a & 0x7fffffff); }

constexpr float kInfinity = __builtin_inff();

constexpr std::int64_t min_of(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
constexpr std::int64_t max_of(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
constexpr std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
