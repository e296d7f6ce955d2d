// SPDX-License-Identifier: MIT
// What the packed operands of a tile are made of.
//
// A word is 32 bits: one fp32 number or, where an instruction multiplies them, two bf16 numbers,
// the first in the low half. Words of a query or key follow its elements; words of weights and of
// V follow the keys, a pair of keys to a word.
#pragma once

#include "../elements-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace prefill {

template <class Element>
struct Words {
  static constexpr std::int64_t kNumbers = 1;  // of a word

  // sum + word * row for every row.
  static GUIDE_INLINE VecF add_product(float word, VecF rows, VecF sum) {
    return fmadd(broadcast(word), rows, sum);
  }
};

#if defined(__AVX512BF16__)
template <>
struct Words<BFloat16> {
  static constexpr std::int64_t kNumbers = 2;

  // sum + the two products of every row. Denormal numbers count as 0.
  static GUIDE_INLINE VecF add_product(float word, VecF rows, VecF sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)broadcast(word), (__m512bh)rows);
  }

  // Rounds both to nearest, ties to even, and pairs them.
  static GUIDE_INLINE VecF pair(VecF first, VecF second) {
    const VecI lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    // Halves `lane` of the first and of the second, which lie behind one another.
    const VecI interleaved = lanes | ((lanes + kLanes) << 16);
    return (VecF)_mm512_maskz_permutexvar_epi16(~__mmask32{0}, (__m512i)interleaved,
                                                (__m512i)_mm512_cvtne2ps_pbh(second, first));
  }

  // Pairs the numbers of two rows: words of the first kLanes, or of the last.
  template <bool kLast>
  static GUIDE_INLINE VecF pair_rows(VecF first, VecF second) {
    const VecI lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    // Halves of the second are numbered from 2 * kLanes on.
    const VecI halves = (lanes + (kLast ? kLanes : 0)) * 0x10001 + (2 * kLanes << 16);
    return (VecF)_mm512_permutex2var_epi16((__m512i)first, (__m512i)halves, (__m512i)second);
  }
};
#elif defined(GUIDE_CPU_AMX)
// Under emulation: tiles alone multiply.
template <>
struct Words<BFloat16> {
  static constexpr std::int64_t kNumbers = 2;

  // Rounds both to nearest, ties to even, and pairs them.
  static GUIDE_INLINE VecF pair(VecF first, VecF second) {
    const auto rounded = [](VecF value) {
      const VecI bits = (VecI)value;
      return value != value ? bits | 0x400000 : bits + 0x7fff + ((bits >> 16) & 1);
    };
    return (VecF)(((rounded(first) >> 16) & 0xffff) | (rounded(second) & ~0xffff));
  }
};
#endif

// Whether tiles of Intel AMX multiply an element (amx_products-inl.h).
template <class Element>
constexpr bool kHasTiles = false;
#if defined(GUIDE_CPU_AMX)
template <>
constexpr bool kHasTiles<BFloat16> = true;
#endif

constexpr std::int64_t words_of(std::int64_t numbers, std::int64_t numbers_of_word) {
  return ceil_div(numbers, numbers_of_word);
}

constexpr std::int64_t kTileSide = 16;  // rows of a tile of Intel AMX, and words of each
constexpr std::int64_t kPairSide = 2 * kTileSide;

// Words of a packed row of Q or K; in tiles, whole ones.
template <class Element>
constexpr std::int64_t row_words(std::int64_t head_dim) {
  return round_up(words_of(head_dim, Words<Element>::kNumbers), kHasTiles<Element> ? kTileSide : 1);
}

// `count` > 0 numbers that exist, as load_words() takes them.
#if defined(__AVX512F__)
template <class Element>
GUIDE_INLINE std::uint32_t number_mask(std::int64_t count) {
  constexpr std::int64_t kMost = Words<Element>::kNumbers * kLanes;
  return static_cast<std::uint32_t>((std::uint64_t{1} << min_of(count, kMost)) - 1);
}

// kLanes words from the numbers at `source` that the mask has, and from zeros.
template <class Element>
GUIDE_INLINE VecF load_words(const typename Element::Storage* source, std::uint32_t mask) {
  if constexpr (Words<Element>::kNumbers == 2) {
    return (VecF)_mm512_maskz_loadu_epi16(mask, source);
  } else if constexpr (sizeof(typename Element::Storage) == sizeof(float)) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), source);
  } else {
    return Element::decode16(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), source));
  }
}
#else
template <class Element>
GUIDE_INLINE std::int64_t number_mask(std::int64_t count) {
  return count;
}

template <class Element>
GUIDE_INLINE VecF load_words(const typename Element::Storage* source, std::int64_t count) {
  return load_elements<Element>(source, count);
}
#endif

}  // namespace prefill
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
