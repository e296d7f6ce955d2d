// SPDX-License-Identifier: MIT
// One tile of rows against one block of keys.
//
// Lanes are rows: scores are kept transposed, [key][row], so that maximum, sum, influence, bias
// and mask are all vertical and no vector is ever reduced. Of each product one operand is a vector
// of rows, the other a number of K or V, broadcast.
#pragma once

#include "../../online_softmax.h"
#include "../../score_mod.h"
#include "../math-inl.h"
#include "../rows-inl.h"
#include "amx_products-inl.h"
#include "prefetch-inl.h"
#include "words-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace prefill {

// A block of keys, as words, for all tiles of a task.
struct KeyBlock {
  const float* key;  // [kBlockN, words of head_dim], whole micro-tiles
  std::int64_t key_stride;
  const float* value;  // [strips, words of kBlockN, kLanes], zeros after the last dimension
  std::int64_t value_stride;
  std::int64_t value_strip_stride;
  const float* influence;  // [channels, kBlockN]
  // In tiles, `value` is V^T, [dimensions, words of kBlockN], and this is scratch for columns of
  // it.
  float* cut_columns;
};

// sums[k][row] = K[k] . Q[row] for kDotKeys keys.
template <class Element, int kVectors>
GUIDE_INLINE void dot_micro_tile(const float* __restrict__ key, std::int64_t key_stride,
                                 const float* __restrict__ query_t, std::int64_t num_words,
                                 VecF (&sums)[kDotKeys][kVectors]) {
  constexpr int kRows = kVectors * kLanes;
  for (int k = 0; k < kDotKeys; ++k) {
    for (int v = 0; v < kVectors; ++v) sums[k][v] = broadcast(0.f);
  }
  for (std::int64_t d = 0; d < num_words; ++d) {
    VecF rows[kVectors];
    for (int v = 0; v < kVectors; ++v) rows[v] = load(query_t + d * kRows + v * kLanes);
    for (int k = 0; k < kDotKeys; ++k) {
      const float word = key[k * key_stride + d];
      for (int v = 0; v < kVectors; ++v) {
        sums[k][v] = Words<Element>::add_product(word, rows[v], sums[k][v]);
      }
    }
  }
}

// Which keys of a block each row sees, as vectors.
template <int kVectors>
struct RowLimits {
  VecI begin[kVectors];
  VecI end[kVectors];

  explicit GUIDE_INLINE RowLimits(const BlockView& view) {
    for (int v = 0; v < kVectors; ++v) {
      begin[v] = view.row_begin ? load(view.row_begin + v * kLanes)
                                : VecI{} + static_cast<std::int32_t>(view.begin);
      end[v] = view.row_end ? load(view.row_end + v * kLanes)
                            : VecI{} + static_cast<std::int32_t>(view.end);
    }
  }

  // -inf hides a key even where its dot product is NaN or infinite.
  GUIDE_INLINE VecF hide(VecF score, VecF bias, std::int64_t k, int v) const {
    const VecF hidden = broadcast(-kInfinity);
    const auto key_idx = static_cast<std::int32_t>(k);
    const VecI is_seen = (begin[v] <= key_idx) & (end[v] > key_idx) & (bias != hidden);
    return select(is_seen, score, hidden);
  }
};

// Scores of kDotKeys keys from `first_key` on; block_max grows to their maximum.
template <class Element, int kVectors, bool kAddends, bool kClear>
GUIDE_INLINE void score_micro_tile(const KeyBlock& block, const BlockView& view,
                                   const RowLimits<kVectors>& limits, ScoreFactors factors,
                                   const float* query_t, std::int64_t num_words,
                                   std::int64_t first_key, float* scores,
                                   VecF (&block_max)[kVectors]) {
  constexpr int kRows = kVectors * kLanes;
  VecF dots[kDotKeys][kVectors];
  dot_micro_tile<Element, kVectors>(block.key + first_key * block.key_stride, block.key_stride,
                                    query_t, num_words, dots);
  for (int k = 0; k < kDotKeys; ++k) {
    for (int v = 0; v < kVectors; ++v) {
      const VecF bias = kAddends ? load(view.addends + (first_key + k) * kRows + v * kLanes)
                                 : broadcast(view.key_bias[first_key + k]);
      VecF score = score_of<false, BitsMath>(dots[k][v], factors, bias);
      if constexpr (!kClear) score = limits.hide(score, bias, first_key + k, v);
      block_max[v] = max_or_second(score, block_max[v]);
      store(scores + (first_key + k) * kRows + v * kLanes, score);
    }
  }
}

// Scores of the keys that the tile sees, and -inf for the rest of the first and the last
// micro-tile; the maximum over the block goes to block_max.
template <class Element, int kVectors, bool kAddends>
void score_tile(const KeyBlock& block, const BlockView& view, ScoreFactors factors,
                const float* query_t, std::int64_t num_words, float* scores,
                VecF (&block_max)[kVectors], UpcomingRows<Element>& upcoming) {
  const RowLimits<kVectors> limits(view);
  VecF maximum[kVectors];
  for (int v = 0; v < kVectors; ++v) maximum[v] = broadcast(-kInfinity);
  for (std::int64_t k = view.begin / kDotKeys * kDotKeys; k < view.end; k += kDotKeys) {
    upcoming.prefetch_some();
    if (!kAddends && view.clear_begin <= k && k + kDotKeys <= view.clear_end) {
      score_micro_tile<Element, kVectors, kAddends, true>(block, view, limits, factors, query_t,
                                                          num_words, k, scores, maximum);
    } else {
      score_micro_tile<Element, kVectors, kAddends, false>(block, view, limits, factors, query_t,
                                                           num_words, k, scores, maximum);
    }
  }
  for (int v = 0; v < kVectors; ++v) block_max[v] = maximum[v];
}

// scores[k][row] = K[k] . Q[row] for the keys [begin, end), whole micro-tiles.
template <class Element, int kVectors>
GUIDE_INLINE void dot_block(const KeyBlock& block, std::int64_t begin, std::int64_t end,
                            const float* query_t, std::int64_t num_words, float* scores,
                            UpcomingRows<Element>& upcoming) {
  constexpr int kRows = kVectors * kLanes;
  if constexpr (kHasTiles<Element>) {
    upcoming.prefetch_rest();
    dot_tiles(block.key, block.key_stride, begin, end, query_t, num_words, scores);
    return;
  } else {
    for (std::int64_t k = begin; k < end; k += kDotKeys) {
      upcoming.prefetch_some();
      VecF dots[kDotKeys][kVectors];
      dot_micro_tile<Element, kVectors>(block.key + k * block.key_stride, block.key_stride, query_t,
                                        num_words, dots);
      for (int i = 0; i < kDotKeys; ++i) {
        for (int v = 0; v < kVectors; ++v) store(scores + (k + i) * kRows + v * kLanes, dots[i][v]);
      }
    }
  }
}

// The same as score_tile with a soft-cap or by tiles, in two passes.
template <class Element, int kVectors, bool kSoftcap, bool kAddends>
void two_pass_score_tile(const KeyBlock& block, const BlockView& view, ScoreFactors factors,
                         const float* query_t, std::int64_t num_words, float* scores,
                         VecF (&block_max)[kVectors], UpcomingRows<Element>& upcoming) {
  constexpr int kRows = kVectors * kLanes;
  const std::int64_t begin = view.begin / kDotKeys * kDotKeys;
  const std::int64_t end = round_up(view.end, kDotKeys);
  dot_block<Element, kVectors>(block, begin, end, query_t, num_words, scores, upcoming);
  const RowLimits<kVectors> limits(view);
  for (int v = 0; v < kVectors; ++v) block_max[v] = broadcast(-kInfinity);
  for (std::int64_t k = begin; k < end; ++k) {
    const bool is_clear = view.clear_begin <= k && k < view.clear_end;
    for (int v = 0; v < kVectors; ++v) {
      float* at = scores + k * kRows + v * kLanes;
      const VecF bias =
          kAddends ? load(view.addends + k * kRows + v * kLanes) : broadcast(view.key_bias[k]);
      const VecF dot = load(at);
      VecF score = score_of<kSoftcap, BitsMath>(dot, factors, bias);
      if (!is_clear) score = limits.hide(score, bias, k, v);
      block_max[v] = max_or_second(score, block_max[v]);
      store(at, score);
    }
  }
}

// Scores to weights 2^(score - row_max), in place, as words where a word holds a pair of keys;
// updates row_max, row_sum and kChannels channels of influence from the weights before they are
// rounded. `rescale` is the factor by which sums of earlier blocks shrink.
//
// kWords false leaves fp32 weights, for channels to come.
template <class Element, int kVectors, int kChannels, bool kWords>
void softmax_tile(const float* influence, std::int64_t begin, std::int64_t end,
                  const VecF (&block_max)[kVectors], float* scores, const TileState& state,
                  VecF (&rescale)[kVectors]) {
  constexpr int kRows = kVectors * kLanes;
  constexpr int kKeys = Words<Element>::kNumbers;
  // The sums of more vectors and what exp2 needs would not fit into the registers.
  constexpr int kTogether = kRegisters / 16;
  static_assert(kVectors % kTogether == 0);
#pragma GCC unroll 4
  for (int first = 0; first < kVectors; first += kTogether) {
    VecF origin[kTogether], sums[kTogether], influence_sums[kChannels + 1][kTogether];
    for (int v = 0; v < kTogether; ++v) {
      float* row_max = state.row_max + (first + v) * kLanes;
      const VecF old_max = load(row_max);
      const VecF new_max = max_or_second(block_max[first + v], old_max);
      store(row_max, new_max);
      origin[v] = exponent_origin<BitsMath>(new_max);
      rescale[first + v] = rescale_factor<BitsMath>(old_max, new_max);
      sums[v] = broadcast(0.f);
      for (int c = 0; c < kChannels; ++c) influence_sums[c][v] = broadcast(0.f);
    }
    for (std::int64_t k = begin; k < end; k += kKeys) {
      for (int v = 0; v < kTogether; ++v) {
        float* column = scores + (first + v) * kLanes;
        VecF weights[kKeys];
        for (int i = 0; i < kKeys; ++i) {
          float* at = column + (k + i) * kRows;
          weights[i] = exp2_nonpositive(load(at) - origin[v]);
          for (int c = 0; c < kChannels; ++c) {
            influence_sums[c][v] =
                fmadd(broadcast(influence[c * kBlockN + k + i]), weights[i], influence_sums[c][v]);
          }
          if constexpr (kKeys == 1 || !kWords) store(at, weights[i]);
        }
        if constexpr (kKeys == 1) {
          sums[v] += weights[0];
        } else {
          sums[v] += weights[0] + weights[1];
          if constexpr (kWords) {
            store(column + k / 2 * kRows, Words<Element>::pair(weights[0], weights[1]));
          }
        }
      }
    }
    for (int v = 0; v < kTogether; ++v) {
      const auto add = [&](float* total, VecF sum) {
        float* at = total + (first + v) * kLanes;
        store(at, fmadd(load(at), rescale[first + v], sum));
      };
      add(state.row_sum, sums[v]);
      for (int c = 0; c < kChannels; ++c) add(state.influence + c * kRows, influence_sums[c][v]);
    }
  }
}

// sums[i][row] = sums[i][row] * rescale[row] + sum over the words of factor(k, i) * weight[k][row],
// where factor(k, i) = factors[k * word_stride + i * item_stride]. The block is summed from zero
// and added once, which halves the rounding error of long rows.
template <class Element, int kVectors, int kItems>
GUIDE_INLINE void weighted_sum_micro_tile(const float* __restrict__ factors,
                                          std::int64_t word_stride, std::int64_t item_stride,
                                          std::int64_t begin, std::int64_t end,
                                          const float* __restrict__ weights,
                                          const VecF (&rescale)[kVectors],
                                          float* __restrict__ sums) {
  constexpr int kRows = kVectors * kLanes;
  VecF block_sums[kItems][kVectors] = {};
  for (std::int64_t k = begin; k < end; ++k) {
    VecF rows[kVectors];
    for (int v = 0; v < kVectors; ++v) rows[v] = load(weights + k * kRows + v * kLanes);
    for (int i = 0; i < kItems; ++i) {
      const float factor = factors[k * word_stride + i * item_stride];
      for (int v = 0; v < kVectors; ++v) {
        block_sums[i][v] = Words<Element>::add_product(factor, rows[v], block_sums[i][v]);
      }
    }
  }
  for (int i = 0; i < kItems; ++i) {
    for (int v = 0; v < kVectors; ++v) {
      float* at = sums + i * kRows + v * kLanes;
      store(at, fmadd(load(at), rescale[v], block_sums[i][v]));
    }
  }
}

// The block's part of out, from the words [begin, end) of weights.
template <class Element, int kVectors>
void value_tile(const KeyBlock& block, std::int64_t padded_head_dim_v, std::int64_t begin,
                std::int64_t end, const float* weights, const VecF (&rescale)[kVectors], float* out,
                UpcomingRows<Element>& upcoming) {
  for (std::int64_t d = 0; d < padded_head_dim_v; d += kValueDims) {
    upcoming.prefetch_some();
    const float* value = block.value + d / kLanes * block.value_strip_stride + d % kLanes;
    weighted_sum_micro_tile<Element, kVectors, kValueDims>(
        value, block.value_stride, 1, begin, end, weights, rescale, out + d * kVectors * kLanes);
  }
}

// The block's part of influence_out from fp32 weights, channels two at a time.
template <int kVectors>
void influence_tile(const float* influence, std::int64_t channels, std::int64_t begin,
                    std::int64_t end, const float* weights, const VecF (&rescale)[kVectors],
                    float* sums) {
  constexpr int kRows = kVectors * kLanes;
  std::int64_t channel = 0;
  for (; channel + 2 <= channels; channel += 2) {
    weighted_sum_micro_tile<Float32, kVectors, 2>(influence + channel * kBlockN, 1, kBlockN, begin,
                                                  end, weights, rescale, sums + channel * kRows);
  }
  if (channel < channels) {
    weighted_sum_micro_tile<Float32, kVectors, 1>(influence + channel * kBlockN, 1, kBlockN, begin,
                                                  end, weights, rescale, sums + channel * kRows);
  }
}

// fp32 weights of the keys [begin, end) to words, in place.
template <class Element, int kVectors>
void pair_weights(std::int64_t begin, std::int64_t end, float* weights) {
  constexpr int kRows = kVectors * kLanes;
  if constexpr (Words<Element>::kNumbers == 2) {
    for (std::int64_t i = begin / 2 * kRows; i < end / 2 * kRows; i += kLanes) {
      const float* first = weights + i / kRows * 2 * kRows + i % kRows;
      store(weights + i, Words<Element>::pair(load(first), load(first + kRows)));
    }
  }
}

// Adds one block of keys to the state of one tile, and brings near what is upcoming, values first.
// `scores` is scratch, [kBlockN, rows].
template <class Element, int kVectors, bool kSoftcap, bool kAddends>
void add_block(const AttentionParams& params, std::int64_t padded_head_dim_v, const KeyBlock& block,
               const BlockView& view, const float* query_t, const TileState& state, float* scores,
               UpcomingRows<Element> upcoming_values, UpcomingRows<Element> upcoming_keys) {
  constexpr std::int64_t kNumbers = Words<Element>::kNumbers;
  const std::int64_t num_words = row_words<Element>(params.head_dim);
  const ScoreFactors factors = score_factors(params.scale, params.softcap, BitsMath::kUnit);
  VecF block_max[kVectors], rescale[kVectors];
  if constexpr (kSoftcap || kHasTiles<Element>) {
    two_pass_score_tile<Element, kVectors, kSoftcap, kAddends>(
        block, view, factors, query_t, num_words, scores, block_max, upcoming_values);
  } else {
    score_tile<Element, kVectors, kAddends>(block, view, factors, query_t, num_words, scores,
                                            block_max, upcoming_values);
  }
  // Whole words: keys beyond the view have been given the score -inf.
  const std::int64_t begin = view.begin / kNumbers * kNumbers;
  const std::int64_t end = round_up(view.end, kNumbers);
  switch (params.channels) {
    case 0:
      softmax_tile<Element, kVectors, 0, true>(nullptr, begin, end, block_max, scores, state,
                                               rescale);
      break;
    case 1:
      softmax_tile<Element, kVectors, 1, true>(block.influence, begin, end, block_max, scores,
                                               state, rescale);
      break;
    case 2:
      softmax_tile<Element, kVectors, 2, true>(block.influence, begin, end, block_max, scores,
                                               state, rescale);
      break;
    default:
      softmax_tile<Element, kVectors, 0, false>(nullptr, begin, end, block_max, scores, state,
                                                rescale);
      influence_tile<kVectors>(block.influence, params.channels, begin, end, scores, rescale,
                               state.influence);
      pair_weights<Element, kVectors>(begin, end, scores);
  }
  if constexpr (kHasTiles<Element>) {
    upcoming_keys.prefetch_rest();
    add_value_tiles<kVectors>(block.value, block.value_stride, padded_head_dim_v, begin / kNumbers,
                              end / kNumbers, scores, rescale, block.cut_columns, state.out);
  } else {
    value_tile<Element, kVectors>(block, padded_head_dim_v, begin / kNumbers, end / kNumbers,
                                  scores, rescale, state.out, upcoming_keys);
  }
}

}  // namespace prefill
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
