// SPDX-License-Identifier: MIT
// Rows of bf16, fp16 and fp32 to and from fp32.
#pragma once

#include "../score_mod.h"
#include "simd-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {

template <class To, class From>
GUIDE_INLINE To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  __builtin_memcpy(&result, &value, sizeof(result));
  return result;
}

struct Float32 {
  using Storage = float;
  static GUIDE_INLINE float decode(float value) { return value; }
  static GUIDE_INLINE float encode(float value) { return value; }
};

struct BFloat16 {
  using Storage = std::uint16_t;
  static GUIDE_INLINE float decode(std::uint16_t value) {
    return bits_as<float>(static_cast<std::uint32_t>(value) << 16);
  }
#if defined(__AVX2__)
  static GUIDE_INLINE __m256 decode8(__m128i values) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(values), 16));
  }
#elif defined(GUIDE_CPU_NEON)
  static GUIDE_INLINE VecF decode4(uint16x4_t values) { return (VecF)vshll_n_u16(values, 16); }
#else
  static GUIDE_INLINE VecF decode_lanes(VecI bits) { return (VecF)(bits << 16); }
#endif
#if defined(__AVX2__) && !defined(__AVX512F__)
  static GUIDE_INLINE __m128i encode8(VecF values) {
    const __m256i halves = (__m256i)encoded_halves(values);
    return _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
  }
#endif
  // Rounds to nearest, ties to even. A NaN keeps its sign and stays one.
  static GUIDE_INLINE std::uint16_t encode(float value) {
    const auto bits = bits_as<std::uint32_t>(value);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const std::uint32_t quiet_nan = (bits >> 16) | 0x40u;
    return static_cast<std::uint16_t>(value != value ? quiet_nan : rounded);
  }
#if defined(__AVX512F__)
  static GUIDE_INLINE VecF decode16(__m256i values) {
    return (VecF)((VecI)_mm512_maskz_cvtepu16_epi32(kAllLanes, values) << 16);
  }
  static GUIDE_INLINE __m256i encode16(VecF values) {
    return _mm512_maskz_cvtepi32_epi16(kAllLanes, (__m512i)encoded_halves(values));
  }
#endif

 private:
  // As encode() does, in the low halves.
  static GUIDE_INLINE VecI encoded_halves(VecF values) {
    const VecI bits = (VecI)values;
    const VecI rounded = bits + 0x7fff + ((bits >> 16) & 1);
    const VecI quiet_nan = bits | 0x400000;
    return ((values != values ? quiet_nan : rounded) >> 16) & 0xffff;
  }
};

struct Float16 {
  using Storage = std::uint16_t;
#if defined(__AVX2__)
  static GUIDE_INLINE float decode(std::uint16_t value) { return _cvtsh_ss(value); }
  static GUIDE_INLINE __m256 decode8(__m128i values) { return _mm256_cvtph_ps(values); }
  static GUIDE_INLINE __m128i encode8(__m256 values) {
    return _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT);
  }
  static GUIDE_INLINE std::uint16_t encode(float value) {
    return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT);
  }
#if defined(__AVX512F__)
  static GUIDE_INLINE VecF decode16(__m256i values) {
    return _mm512_maskz_cvtph_ps(kAllLanes, values);
  }
  static GUIDE_INLINE __m256i encode16(VecF values) {
    return _mm512_maskz_cvtps_ph(kAllLanes, values, _MM_FROUND_TO_NEAREST_INT);
  }
#endif
#elif defined(GUIDE_CPU_NEON)
  static GUIDE_INLINE float decode(std::uint16_t value) { return bits_as<__fp16>(value); }
  static GUIDE_INLINE VecF decode4(uint16x4_t values) {
    return vcvt_f32_f16(vreinterpret_f16_u16(values));
  }
  static GUIDE_INLINE std::uint16_t encode(float value) {
    return bits_as<std::uint16_t>(static_cast<__fp16>(value));
  }
#else
  static GUIDE_INLINE float decode(std::uint16_t value) {
    const std::uint32_t sign = static_cast<std::uint32_t>(value & 0x8000u) << 16;
    const std::uint32_t magnitude = value & 0x7fffu;
    if (magnitude >= 0x7c00u) return bits_as<float>(sign | 0x7f800000u | (magnitude << 13));
    // Multiplying by 2^112 corrects the exponent's bias, and makes denormals normal on the way.
    const float scaled = bits_as<float>(magnitude << 13) * 0x1p112f;
    return bits_as<float>(sign | bits_as<std::uint32_t>(scaled));
  }
  static GUIDE_INLINE VecF decode_lanes(VecI bits) {
    const VecI sign = (bits & 0x8000) << 16;
    const VecI magnitude = (bits & 0x7fff) << 13;
    const VecI scaled = (VecI)((VecF)magnitude * 0x1p112f);
    const VecI is_special = magnitude >= (0x7c00 << 13);
    return (VecF)(sign | (is_special ? (magnitude | 0x7f800000) : scaled));
  }
  // Rounds to nearest, ties to even.
  static GUIDE_INLINE std::uint16_t encode(float value) {
    const auto bits = bits_as<std::uint32_t>(value);
    const std::uint32_t sign = (bits >> 16) & 0x8000u;
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    std::uint32_t result;
    if (magnitude > 0x7f800000u) {
      result = 0x7e00u;  // NaN
    } else if (magnitude >= 0x477ff000u) {
      result = 0x7c00u;  // rounds to 65536 or more: infinity
    } else if (magnitude < 0x38800000u) {
      // Denormal: adding 2^-1 leaves the value in units of 2^-24 in the low bits, rounded.
      result = bits_as<std::uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000u;
    } else {
      result = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    }
    return static_cast<std::uint16_t>(sign | result);
  }
#endif
};

template <ElementType kType>
struct ElementOf {
  using Type = Float32;
};
template <>
struct ElementOf<ElementType::kBFloat16> {
  using Type = BFloat16;
};
template <>
struct ElementOf<ElementType::kFloat16> {
  using Type = Float16;
};

// kLanes elements as numbers.
template <class Element>
GUIDE_INLINE VecF load_elements(const typename Element::Storage* source) {
  if constexpr (sizeof(typename Element::Storage) == sizeof(float)) {
    return load(source);
  } else {
#if defined(__AVX512F__)
    return Element::decode16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
#elif defined(__AVX2__)
    return Element::decode8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
#elif defined(GUIDE_CPU_NEON)
    return Element::decode4(vld1_u16(source));
#else
    std::uint16_t __attribute__((vector_size(kLanes * sizeof(std::uint16_t)))) halves;
    __builtin_memcpy(&halves, source, sizeof(halves));
    return Element::decode_lanes(__builtin_convertvector(halves, VecI));
#endif
  }
}

// target[0, padded_count) = source[0, count), then zeros.
template <class Element>
GUIDE_INLINE void decode_row(const typename Element::Storage* source, std::int64_t count,
                             std::int64_t padded_count, float* target) {
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(target + i, load_elements<Element>(source + i));
  for (; i < count; ++i) target[i] = Element::decode(source[i]);
  for (; i < padded_count; ++i) target[i] = 0.f;
}

// The same of `count` > 0 elements, or kLanes if they are more, and zeros. Reads no others.
template <class Element>
GUIDE_INLINE VecF load_elements(const typename Element::Storage* source, std::int64_t count) {
  if (count >= kLanes) return load_elements<Element>(source);
  typename Element::Storage padded[kLanes] = {};
  for (std::int64_t i = 0; i < count; ++i) padded[i] = source[i];
  return load_elements<Element>(padded);
}

// The first `count` > 0 numbers, or all if they are more, as elements.
template <class Element>
GUIDE_INLINE void store_elements(typename Element::Storage* target, std::int64_t count,
                                 VecF numbers) {
  using Storage = typename Element::Storage;
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask16>((1u << min_of(count, kLanes)) - 1);
  if constexpr (sizeof(Storage) == sizeof(float)) {
    _mm512_mask_storeu_ps(target, mask, numbers);
  } else {
    _mm256_mask_storeu_epi16(target, mask, Element::encode16(numbers));
  }
#else
  Storage elements[kLanes];
#if defined(__AVX2__)
  if constexpr (sizeof(Storage) == sizeof(float)) {
    store(elements, numbers);
  } else {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(elements), Element::encode8(numbers));
  }
#else
  for (int lane = 0; lane < kLanes; ++lane) elements[lane] = Element::encode(numbers[lane]);
#endif
  if (count >= kLanes) {
    __builtin_memcpy(target, elements, sizeof(elements));
  } else {
    for (std::int64_t i = 0; i < count; ++i) target[i] = elements[i];
  }
#endif
}

// A bias or sink of any floating type, or of bool: 0 for true (visible), -inf for false.
GUIDE_INLINE float decode_any(const void* base, ElementType type, std::int64_t index) {
  switch (type) {
    case ElementType::kBFloat16:
      return BFloat16::decode(static_cast<const std::uint16_t*>(base)[index]);
    case ElementType::kFloat16:
      return Float16::decode(static_cast<const std::uint16_t*>(base)[index]);
    case ElementType::kFloat64:
      return bias_from_double(static_cast<const double*>(base)[index]);
    case ElementType::kBool:
      return static_cast<const bool*>(base)[index] ? 0.f : -kInfinity;
    default:
      return static_cast<const float*>(base)[index];
  }
}

}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
