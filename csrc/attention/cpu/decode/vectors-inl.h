// SPDX-License-Identifier: MIT
// Vectors for decoding, where lanes are elements of a row of K or V, or keys: loads that convert
// in registers, and reductions across lanes.
#pragma once

#include "../elements-inl.h"
#include "../math-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace decode {

// Rows of K and V are read a pair of vectors at a time.
constexpr std::int64_t kPairElements = 2 * kLanes;

// Pairs between two calls of a prefetcher, which brings a whole cache line: several short pairs.
template <class Storage>
constexpr std::int64_t kPairsOfLine = kLanes > 4 ? 1 : 64 / (kPairElements * sizeof(Storage));

// kPairElements numbers in an order of the element type's own: see element_of_lane.
struct VecPair {
  VecF first;
  VecF second;
};

template <class Element>
struct Pairs {
  using Storage = typename Element::Storage;

  static GUIDE_INLINE VecPair load(const Storage* source) {
    return {load_elements<Element>(source), load_elements<Element>(source + kLanes)};
  }

  // Which number of the pair lies in lane `lane` of the `second` or first vector.
  static constexpr std::int64_t element_of_lane(bool second, std::int64_t lane) {
    return second ? kLanes + lane : lane;
  }
};

// One load for both vectors: the even numbers, then the odd ones.
template <>
struct Pairs<BFloat16> {
  static GUIDE_INLINE VecPair load(const std::uint16_t* source) {
    VecI bits;
    __builtin_memcpy(&bits, source, sizeof(bits));
    return {(VecF)(bits << 16), (VecF)(bits & static_cast<std::int32_t>(0xffff0000u))};
  }
  static constexpr std::int64_t element_of_lane(bool second, std::int64_t lane) {
    return 2 * lane + (second ? 1 : 0);
  }
};

// 0, 1, 2, ...
GUIDE_INLINE VecI lane_indices() {
  std::int32_t indices[kLanes];
  for (std::int32_t lane = 0; lane < kLanes; ++lane) indices[lane] = lane;
  return load(indices);
}

// Reads source[0, count) and no more; the other numbers are 0.
template <class Element>
GUIDE_INLINE VecPair load_pair_part(const typename Element::Storage* source, std::int64_t count) {
  using Storage = typename Element::Storage;
  alignas(64) Storage padded[kPairElements];
#if defined(__AVX512F__)
  if constexpr (sizeof(Storage) == 2) {
    const auto mask = static_cast<__mmask32>((std::uint64_t{1} << count) - 1);
    _mm512_store_si512(padded, _mm512_maskz_loadu_epi16(mask, source));
  } else {
    const auto mask = static_cast<std::uint32_t>((std::uint64_t{1} << count) - 1);
    return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), source),
            _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> kLanes), source + kLanes)};
  }
#else
  for (std::int64_t i = 0; i < kPairElements; ++i) padded[i] = 0;
#if defined(__AVX2__)
  // Memory is masked by words of 32 bits.
  constexpr std::int64_t kWordElements = sizeof(std::int32_t) / sizeof(Storage);
  const auto load_vector = [&](std::int64_t first_word) {
    const auto present = static_cast<std::int32_t>(count / kWordElements - first_word);
    return (VecF)_mm256_maskload_epi32(reinterpret_cast<const std::int32_t*>(source) + first_word,
                                       (__m256i)(lane_indices() < present));
  };
  if constexpr (kWordElements == 1) return {load_vector(0), load_vector(kLanes)};
  if (count % kWordElements == 0) {
    const VecF words = load_vector(0);
    __builtin_memcpy(padded, &words, sizeof(words));
    return Pairs<Element>::load(padded);
  }
#endif
  for (std::int64_t i = 0; i < count; ++i) padded[i] = source[i];
#endif
  return Pairs<Element>::load(padded);
}

// What the rows of K and of Q are multiplied as.
template <class Element>
struct DotPairs {
  using Pair = VecPair;
  using Storage = typename Element::Storage;

  static GUIDE_INLINE Pair load(const Storage* source) { return Pairs<Element>::load(source); }
  static GUIDE_INLINE Pair load_part(const Storage* source, std::int64_t count) {
    return load_pair_part<Element>(source, count);
  }
  static GUIDE_INLINE VecF add_product(Pair a, Pair b, VecF sum) {
    return fmadd(a.second, b.second, fmadd(a.first, b.first, sum));
  }
};

#if defined(__AVX512BF16__)
// Products of bf16 numbers are exact in fp32, whichever instruction multiplies them.
template <>
struct DotPairs<BFloat16> {
  using Pair = __m512bh;

  static GUIDE_INLINE Pair load(const std::uint16_t* source) {
    return (__m512bh)_mm512_loadu_si512(source);
  }
  static GUIDE_INLINE Pair load_part(const std::uint16_t* source, std::int64_t count) {
    const auto mask = static_cast<__mmask32>((std::uint64_t{1} << count) - 1);
    return (__m512bh)_mm512_maskz_loadu_epi16(mask, source);
  }
  static GUIDE_INLINE VecF add_product(Pair a, Pair b, VecF sum) {
    return _mm512_dpbf16_ps(sum, a, b);
  }
};
#endif

struct Add {
  static GUIDE_INLINE VecF apply(VecF a, VecF b) { return a + b; }
};
struct Max {
  static GUIDE_INLINE VecF apply(VecF a, VecF b) { return max_or_second(a, b); }
};

// Lane i of the result is the reduction of the lanes of vectors[i], for i < kCount <= kLanes; the
// other lanes are unspecified. A tree of which every step halves the number of vectors.
template <class Operation, int kCount>
GUIDE_INLINE VecF reduce_each(const VecF* vectors) {
  static_assert(0 < kCount && kCount <= kLanes);
  const auto at = [&](int i) { return vectors[i < kCount ? i : kCount - 1]; };
#if defined(__AVX512F__)
  // The masked forms, all lanes on: GCC 12 warns of the others' own undefined operand.
  constexpr __mmask16 kAll = 0xffff;
  const auto shuffle_blocks = [](VecF a, VecF b) {
    return Operation::apply(_mm512_maskz_shuffle_f32x4(kAll, a, b, 0x44),
                            _mm512_maskz_shuffle_f32x4(kAll, a, b, 0xee));
  };
  VecF pairs[8], quads[4];
  for (int i = 0; i < 8; ++i) {
    const VecF a = at(2 * i), b = at(2 * i + 1);
    pairs[i] = Operation::apply(_mm512_maskz_unpacklo_ps(kAll, a, b),
                                _mm512_maskz_unpackhi_ps(kAll, a, b));
  }
  for (int i = 0; i < 4; ++i) {
    const VecF a = pairs[2 * i], b = pairs[2 * i + 1];
    quads[i] = Operation::apply(_mm512_maskz_shuffle_ps(kAll, a, b, 0x44),
                                _mm512_maskz_shuffle_ps(kAll, a, b, 0xee));
  }
  const VecF low = shuffle_blocks(quads[0], quads[1]);
  const VecF high = shuffle_blocks(quads[2], quads[3]);
  return Operation::apply(_mm512_maskz_shuffle_f32x4(kAll, low, high, 0x88),
                          _mm512_maskz_shuffle_f32x4(kAll, low, high, 0xdd));
#elif defined(__AVX2__)
  VecF pairs[4], quads[2];
  for (int i = 0; i < 4; ++i) {
    const VecF a = at(2 * i), b = at(2 * i + 1);
    pairs[i] = Operation::apply(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
  }
  for (int i = 0; i < 2; ++i) {
    const VecF a = pairs[2 * i], b = pairs[2 * i + 1];
    quads[i] = Operation::apply(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
  }
  return Operation::apply(_mm256_permute2f128_ps(quads[0], quads[1], 0x20),
                          _mm256_permute2f128_ps(quads[0], quads[1], 0x31));
#elif defined(GUIDE_CPU_NEON)
  float64x2_t pairs[2];
  for (int i = 0; i < 2; ++i) {
    const VecF a = at(2 * i), b = at(2 * i + 1);
    pairs[i] = (float64x2_t)Operation::apply(vtrn1q_f32(a, b), vtrn2q_f32(a, b));
  }
  return Operation::apply((VecF)vzip1q_f64(pairs[0], pairs[1]),
                          (VecF)vzip2q_f64(pairs[0], pairs[1]));
#else
  static_assert(kLanes == 4);
  const VecF a = at(0), b = at(1), c = at(2), d = at(3);
  const VecF low = Operation::apply(VecF{a[0], b[0], c[0], d[0]}, VecF{a[1], b[1], c[1], d[1]});
  const VecF high = Operation::apply(VecF{a[2], b[2], c[2], d[2]}, VecF{a[3], b[3], c[3], d[3]});
  return Operation::apply(low, high);
#endif
}

// Brings rows of K or V into the second-level cache, a few cache lines at a time and in the order
// of memory.
class Prefetcher {
 public:
  Prefetcher() = default;

  GUIDE_INLINE Prefetcher(const void* first_row, std::int64_t row_stride_bytes,
                          std::int64_t row_bytes, std::int64_t num_rows)
      : row_(reinterpret_cast<std::uintptr_t>(first_row)),
        line_(row_),
        stride_(row_stride_bytes),
        lines_per_row_(ceil_div(row_bytes, kLineBytes)),
        lines_left_(num_rows > 0 ? lines_per_row_ : 0),
        rows_left_(num_rows - 1) {}

  // As many lines as a pair of vectors of `Storage`.
  template <class Storage>
  GUIDE_INLINE void next() {
    constexpr int kForReading = 0;
    constexpr int kSecondLevel = 2;
    constexpr std::int64_t kLines = ceil_div(kPairElements * sizeof(Storage), kLineBytes);
    if (lines_left_ <= 0) {
      if (rows_left_ <= 0) return;
      --rows_left_;
      row_ += static_cast<std::uintptr_t>(stride_);
      line_ = row_;
      lines_left_ = lines_per_row_;
    }
    for (std::int64_t i = 0; i < kLines; ++i, line_ += kLineBytes) {
      __builtin_prefetch(reinterpret_cast<const void*>(line_), kForReading, kSecondLevel);
    }
    lines_left_ -= kLines;
  }

 private:
  static constexpr std::int64_t kLineBytes = 64;

  std::uintptr_t row_ = 0;
  std::uintptr_t line_ = 0;
  std::int64_t stride_ = 0;
  std::int64_t lines_per_row_ = 0;
  std::int64_t lines_left_ = 0;
  std::int64_t rows_left_ = 0;
};

}  // namespace decode
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
