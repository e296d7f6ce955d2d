// SPDX-License-Identifier: MIT
// One tile of few rows against one block of keys, K and V straight from memory.
//
// Lanes are the elements of a row of K or V in the products, and keys in between: scores are kept
// [row][key]. Every row of K or V that is loaded, and converted, serves all rows of the tile.
#pragma once

#include "../../online_softmax.h"
#include "../../score_mod.h"
#include "../plan-inl.h"
#include "vectors-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace decode {

// Dot products that are summed at the same time, and reduced together.
constexpr int kDots = kRegisters / 2;
// Rows of a tile: a lane of the state each, and at least two keys to a step of the dot products.
constexpr int kMostRows = kDots / 2 < kLanes ? kDots / 2 : kLanes;
// Scores of a row; the last step of the dot products may write beyond the block.
constexpr std::int64_t kScoreStride = kBlockN + kDots;

// Rows of one head of K or V, from the first key of the block.
template <class Element>
struct KeyRows {
  const typename Element::Storage* first;
  std::int64_t stride;        // in elements
  std::int64_t num_elements;  // of a row
};

// Running state of the rows of a tile: a row is a lane, but of `out`. One array, so that key
// splits can be stored and merged.
struct State {
  float* row_max;    // [kLanes]
  float* row_sum;    // [kLanes]
  float* influence;  // [channels, kLanes]
  float* out;        // [rows, padded_head_dim_v], in the order of Pairs
};

GUIDE_INLINE State state_at(float* memory, std::int64_t channels) {
  return {memory, memory + kLanes, memory + 2 * kLanes, memory + (2 + channels) * kLanes};
}

GUIDE_INLINE std::int64_t num_pairs(std::int64_t num_elements) {
  return ceil_div(num_elements, kPairElements);
}

// sums[row * sum_stride + k] += K[k] . Q[row] over one pair of vectors.
template <class Element, int kRows, int kKeys>
GUIDE_INLINE void add_products(const typename DotPairs<Element>::Pair (&keys)[kKeys],
                               const typename DotPairs<Element>::Pair* queries,
                               std::int64_t query_stride, VecF* sums, int sum_stride) {
  for (int row = 0; row < kRows; ++row) {
    const auto query = queries[row * query_stride];
    for (int k = 0; k < kKeys; ++k) {
      VecF& sum = sums[row * sum_stride + k];
      sum = DotPairs<Element>::add_product(keys[k], query, sum);
    }
  }
}

// Raw dot products of the keys [begin, end) to scores[row][key].
template <class Element, int kRows>
void dot_rows(const KeyRows<Element>& key, const typename DotPairs<Element>::Pair* queries,
              std::int64_t begin, std::int64_t end, float* scores, Prefetcher& prefetcher) {
  using Dot = DotPairs<Element>;
  using Pair = typename Dot::Pair;
  constexpr int kKeys = kDots / kRows;
  // One or two keys at the same time: the processor's own prefetching follows memory in its order.
  constexpr int kNear = sizeof(typename Element::Storage) == 2 ? 2 : 1;
#if defined(GUIDE_CPU_NEON)
  // With so few lanes the sums of one or two keys would wait for one another.
  constexpr int kTogether = kKeys % 4 == 0 ? 4 : kKeys;
  static_assert(kNear <= kTogether);
#else
  constexpr int kTogether = kKeys % kNear == 0 ? kNear : 1;
#endif
  const std::int64_t query_stride = num_pairs(key.num_elements);
  const std::int64_t whole_pairs = key.num_elements / kPairElements;
  const std::int64_t remaining = key.num_elements % kPairElements;
  for (std::int64_t k_idx = begin; k_idx < end; k_idx += kKeys) {
    const typename Element::Storage* rows[kKeys];
    for (int k = 0; k < kKeys; ++k) {
      // The last step repeats the last key.
      rows[k] = key.first + min_of(k_idx + k, end - 1) * key.stride;
    }
    VecF sums[kDots] = {};
#pragma GCC unroll 16
    for (int k = 0; k < kKeys; k += kTogether) {
      Pair keys[kTogether];
      for (std::int64_t pair = 0; pair < whole_pairs; ++pair) {
        for (int i = 0; i < kTogether; ++i) {
          if (pair % kPairsOfLine<typename Element::Storage> == 0) {
            prefetcher.next<typename Element::Storage>();
          }
          keys[i] = Dot::load(rows[k + i] + pair * kPairElements);
        }
        add_products<Element, kRows, kTogether>(keys, queries + pair, query_stride, sums + k,
                                                kKeys);
      }
      if (remaining != 0) {
        Pair parts[kTogether];
        for (int i = 0; i < kTogether; ++i) {
          parts[i] = Dot::load_part(rows[k + i] + whole_pairs * kPairElements, remaining);
        }
        add_products<Element, kRows, kTogether>(parts, queries + whole_pairs, query_stride,
                                                sums + k, kKeys);
      }
    }
    float dots[kDots];
    for (int i = 0; i < kDots; i += kLanes) {
      store(dots + i, reduce_each<Add, kLanes>(sums + i));
    }
    for (int row = 0; row < kRows; ++row) {
      __builtin_memcpy(scores + row * kScoreStride + k_idx, dots + row * kKeys,
                       kKeys * sizeof(float));
    }
  }
}

// Dot products to scores, in place, and -inf to the rest of the first and the last vector;
// block_max[row] gets the maxima over the keys of a lane. biases[row] is [kBlockN].
template <int kRows, bool kSoftcap, bool kMasked>
void score_rows(const BlockView& view, const float* const (&biases)[kRows], ScoreFactors factors,
                float* scores, VecF (&block_max)[kRows]) {
  const VecF hidden = broadcast(-kInfinity);
  const VecI lanes = lane_indices();
  for (int row = 0; row < kRows; ++row) block_max[row] = hidden;
  for (std::int64_t k = view.begin / kLanes * kLanes; k < view.end; k += kLanes) {
    for (int row = 0; row < kRows; ++row) {
      float* at = scores + row * kScoreStride + k;
      const VecF bias = load(biases[row] + k);
      VecF score = score_of<kSoftcap, VectorMath>(load(at), factors, bias);
      // -inf hides a key even where its dot product is NaN or infinite.
      score = select(bias == hidden, hidden, score);
      if constexpr (kMasked) {
        const VecI key_idx = lanes + static_cast<std::int32_t>(k);
        const std::int64_t row_begin = view.row_begin ? view.row_begin[row] : view.begin;
        const std::int64_t row_end = view.row_end ? view.row_end[row] : view.end;
        score = select((key_idx >= static_cast<std::int32_t>(row_begin)) &
                           (key_idx < static_cast<std::int32_t>(row_end)),
                       score, hidden);
      }
      block_max[row] = max_or_second(score, block_max[row]);
      store(at, score);
    }
  }
}

// Scores to weights exp(score - row_max), in place; updates row_max and row_sum. rescale[row] is
// the factor by which sums of earlier blocks shrink.
template <int kRows>
void softmax_rows(std::int64_t begin, std::int64_t end, const VecF (&block_max)[kRows],
                  float* scores, const State& state, float (&rescale)[kLanes]) {
  const VecF old_max = load(state.row_max);
  const VecF new_max = max_or_second(reduce_each<Max, kRows>(block_max), old_max);
  const VecF factor = rescale_factor<VectorMath>(old_max, new_max);
  float origin[kLanes];
  store(origin, exponent_origin<VectorMath>(new_max));
  store(state.row_max, new_max);
  store(rescale, factor);
  VecF sums[kRows] = {};
  for (std::int64_t k = begin / kLanes * kLanes; k < end; k += kLanes) {
    for (int row = 0; row < kRows; ++row) {
      float* at = scores + row * kScoreStride + k;
      const VecF weight = exp_nonpositive(load(at) - broadcast(origin[row]));
      sums[row] += weight;
      store(at, weight);
    }
  }
  store(state.row_sum, fmadd(load(state.row_sum), factor, reduce_each<Add, kRows>(sums)));
}

// The block's part of one channel of influence_out: fp32 weights meet fp32 influence. `influence`
// is [kBlockN], `sums` [kLanes].
template <int kRows>
void influence_rows(const float* influence, std::int64_t begin, std::int64_t end,
                    const float* weights, const float* rescale, float* sums) {
  VecF block_sums[kRows] = {};
  for (std::int64_t k = begin / kLanes * kLanes; k < end; k += kLanes) {
    const VecF factor = load(influence + k);
    for (int row = 0; row < kRows; ++row) {
      block_sums[row] = fmadd(load(weights + row * kScoreStride + k), factor, block_sums[row]);
    }
  }
  store(sums, fmadd(load(sums), load(rescale), reduce_each<Add, kRows>(block_sums)));
}

// out[row] = out[row] * rescale[row] + sum over the keys of weight * V, for kRows rows and kPairs
// pairs of vectors. The block is summed from zero and added once, which halves the rounding error
// of long rows. kPart: the last pair of a row, of which a part exists.
template <class Element, int kRows, int kPairs, bool kPart, bool kPrefetches>
GUIDE_INLINE void value_strip(const KeyRows<Element>& value, std::int64_t first_pair,
                              std::int64_t begin, std::int64_t end, const float* weights,
                              const float* rescale, float* out, std::int64_t out_stride,
                              Prefetcher& prefetcher) {
  const std::int64_t remaining = value.num_elements - first_pair * kPairElements;
  const auto* source = value.first + begin * value.stride + first_pair * kPairElements;
  VecF sums[kRows][kPairs][2] = {};
  for (std::int64_t k = begin; k < end; ++k, source += value.stride) {
    VecF weight[kRows];
    for (int row = 0; row < kRows; ++row) weight[row] = broadcast(weights[row * kScoreStride + k]);
    for (int pair = 0; pair < kPairs; ++pair) {
      VecPair numbers;
      if constexpr (kPart) {
        numbers = load_pair_part<Element>(source, remaining);
      } else {
        if constexpr (kPrefetches) {
          if (pair % kPairsOfLine<typename Element::Storage> == 0) {
            prefetcher.next<typename Element::Storage>();
          }
        }
        numbers = Pairs<Element>::load(source + pair * kPairElements);
      }
      for (int row = 0; row < kRows; ++row) {
        VecF(&sum)[2] = sums[row][pair];
        sum[0] = fmadd(weight[row], numbers.first, sum[0]);
        sum[1] = fmadd(weight[row], numbers.second, sum[1]);
      }
    }
  }
  for (int row = 0; row < kRows; ++row) {
    const VecF factor = broadcast(rescale[row]);
    float* at = out + row * out_stride + first_pair * kPairElements;
    for (int i = 0; i < 2 * kPairs; ++i) {
      store(at + i * kLanes, fmadd(load(at + i * kLanes), factor, sums[row][i / 2][i % 2]));
    }
  }
}

// All rows of a strip, a few at a time so that their sums stay in registers.
template <class Element, int kRows, int kPairs, bool kPart, bool kPrefetches = true>
GUIDE_INLINE void value_strip_rows(const KeyRows<Element>& value, std::int64_t first_pair,
                                   std::int64_t begin, std::int64_t end, const float* weights,
                                   const float* rescale, float* out, std::int64_t out_stride,
                                   Prefetcher& prefetcher) {
  constexpr int kMostSums = kRegisters * 3 / 4;
  constexpr int kMostRows = kMostSums / (2 * kPairs) > 0 ? kMostSums / (2 * kPairs) : 1;
  constexpr int kSteps = (kRows + kMostRows - 1) / kMostRows;
  constexpr int kStepRows = (kRows + kSteps - 1) / kSteps;
  value_strip<Element, kStepRows, kPairs, kPart, kPrefetches>(
      value, first_pair, begin, end, weights, rescale, out, out_stride, prefetcher);
  if constexpr (kRows > kStepRows) {
    value_strip_rows<Element, kRows - kStepRows, kPairs, kPart, false>(
        value, first_pair, begin, end, weights + kStepRows * kScoreStride, rescale + kStepRows,
        out + kStepRows * out_stride, out_stride, prefetcher);
  }
}

// The block's part of out.
template <class Element, int kRows>
void value_rows(const KeyRows<Element>& value, std::int64_t begin, std::int64_t end,
                const float* weights, const float* rescale, float* out, Prefetcher& prefetcher) {
  // Strips of 512 bytes at most, read as they lie, and of few keys, so that the first-level cache
  // holds for later rows, or strips beside them, what the first have read.
  constexpr std::int64_t kKeys = 32;
#if defined(GUIDE_CPU_NEON)
  constexpr int kPairs = kRows > 2 ? 2 : 4;  // 8 sums at least, so that none waits for another
#else
  constexpr int kPairs = kLanes > 8 && sizeof(typename Element::Storage) > 2 ? 4 : 2;
#endif
  const std::int64_t out_stride = num_pairs(value.num_elements) * kPairElements;
  const std::int64_t whole_pairs = value.num_elements / kPairElements;
  float ones[kLanes];
  store(ones, broadcast(1.f));
  for (std::int64_t k_begin = begin; k_begin < end; k_begin += kKeys) {
    const std::int64_t k_end = min_of(k_begin + kKeys, end);
    const float* factors = k_begin == begin ? rescale : ones;
    std::int64_t pair = 0;
    for (; pair + kPairs <= whole_pairs; pair += kPairs) {
      value_strip_rows<Element, kRows, kPairs, false>(value, pair, k_begin, k_end, weights, factors,
                                                      out, out_stride, prefetcher);
    }
    for (; pair + 2 <= whole_pairs; pair += 2) {
      value_strip_rows<Element, kRows, 2, false>(value, pair, k_begin, k_end, weights, factors, out,
                                                 out_stride, prefetcher);
    }
    for (; pair < whole_pairs; ++pair) {
      value_strip_rows<Element, kRows, 1, false>(value, pair, k_begin, k_end, weights, factors, out,
                                                 out_stride, prefetcher);
    }
    if (value.num_elements % kPairElements != 0) {
      value_strip_rows<Element, kRows, 1, true>(value, pair, k_begin, k_end, weights, factors, out,
                                                out_stride, prefetcher);
    }
  }
}

}  // namespace decode
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
