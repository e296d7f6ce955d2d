// SPDX-License-Identifier: MIT
// One tile of rows against one block of keys.
//
// Lanes are rows: scores are kept transposed, [key][row], so that maximum, sum, influence, bias
// and mask are all vertical and no vector is ever reduced. Of each product one operand is a vector
// of rows, the other a number of K or V, broadcast.
#pragma once

#include "../online_softmax.h"
#include "../score_mod.h"
#include "math-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {

constexpr std::int64_t kBlockN = 128;  // keys of a block

// A block of keys, packed to fp32 for all tiles of a task.
struct KeyBlock {
  const float* key;        // [kBlockN, head_dim], zeros after the last key
  const float* value;      // [kBlockN, padded_head_dim_v], zeros after the last dimension
  const float* influence;  // [channels, kBlockN]
};

// What a tile sees of a block, and what is added to its scores.
struct BlockView {
  std::int64_t begin;  // keys of the block that any row sees: [begin, end)
  std::int64_t end;
  const std::int32_t* row_begin;  // [rows], keys of the block that a row sees; null: all rows all
  const std::int32_t* row_end;
  const float* key_bias;  // [kBlockN], for all rows
  const float* addends;   // [kBlockN, rows], instead of key_bias; null: none
};

// Running state of the rows of a tile. One array, so that key splits can be stored and merged.
struct TileState {
  float* row_max;    // [rows]
  float* row_sum;    // [rows]
  float* influence;  // [channels, rows]
  float* out;        // [padded_head_dim_v, rows]
};

GUIDE_INLINE TileState tile_state(float* memory, std::int64_t rows, std::int64_t channels) {
  return {memory, memory + rows, memory + 2 * rows, memory + (2 + channels) * rows};
}

// scores[k][row] = K[k] . Q[row] for kDotKeys keys.
template <int kVectors>
GUIDE_INLINE void dot_micro_tile(const float* __restrict__ key, const float* __restrict__ query_t,
                                 std::int64_t head_dim, float* __restrict__ scores) {
  constexpr int kRows = kVectors * kLanes;
  VecF sums[kDotKeys][kVectors] = {};
  for (std::int64_t d = 0; d < head_dim; ++d) {
    VecF rows[kVectors];
    for (int v = 0; v < kVectors; ++v) rows[v] = load(query_t + d * kRows + v * kLanes);
    for (int k = 0; k < kDotKeys; ++k) {
      const VecF element = broadcast(key[k * head_dim + d]);
      for (int v = 0; v < kVectors; ++v) sums[k][v] = fmadd(element, rows[v], sums[k][v]);
    }
  }
  for (int k = 0; k < kDotKeys; ++k) {
    for (int v = 0; v < kVectors; ++v) store(scores + k * kRows + v * kLanes, sums[k][v]);
  }
}

// Raw dot products of the keys [begin, end); up to kDotKeys - 1 more on both sides.
template <int kVectors>
void dot_tile(const float* key, const float* query_t, std::int64_t head_dim, std::int64_t begin,
              std::int64_t end, float* scores) {
  for (std::int64_t k = begin / kDotKeys * kDotKeys; k < end; k += kDotKeys) {
    dot_micro_tile<kVectors>(key + k * head_dim, query_t, head_dim, scores + k * kVectors * kLanes);
  }
}

// Dot products to scores, in place; the maximum over the block goes to block_max.
template <int kVectors, bool kSoftcap, bool kAddends, bool kMasked>
void score_tile(const BlockView& view, ScoreFactors factors, float* scores,
                VecF (&block_max)[kVectors]) {
  constexpr int kRows = kVectors * kLanes;
  const VecF hidden = broadcast(-kInfinity);
  VecI row_begin[kVectors], row_end[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    block_max[v] = hidden;
    if constexpr (kMasked) {
      row_begin[v] = load(view.row_begin + v * kLanes);
      row_end[v] = load(view.row_end + v * kLanes);
    }
  }
  for (std::int64_t k = view.begin; k < view.end; ++k) {
    const VecF key_bias = broadcast(kAddends ? 0.f : view.key_bias[k]);
    for (int v = 0; v < kVectors; ++v) {
      float* at = scores + k * kRows + v * kLanes;
      const VecF bias = kAddends ? load(view.addends + k * kRows + v * kLanes) : key_bias;
      VecF score = score_of<kSoftcap, VectorMath>(load(at), factors, bias);
      // -inf hides a key even where its dot product is NaN or infinite.
      score = select(bias == hidden, hidden, score);
      if constexpr (kMasked) {
        const auto key_idx = static_cast<std::int32_t>(k);
        score = select((row_begin[v] <= key_idx) & (row_end[v] > key_idx), score, hidden);
      }
      block_max[v] = max_or_second(score, block_max[v]);
      store(at, score);
    }
  }
}

// Scores to weights exp(score - row_max), in place; updates row_max and row_sum. `rescale` is the
// factor by which sums of earlier blocks shrink.
template <int kVectors>
void softmax_tile(std::int64_t begin, std::int64_t end, const VecF (&block_max)[kVectors],
                  float* scores, const TileState& state, VecF (&rescale)[kVectors]) {
  constexpr int kRows = kVectors * kLanes;
  VecF origin[kVectors], sums[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const VecF old_max = load(state.row_max + v * kLanes);
    const VecF new_max = max_or_second(block_max[v], old_max);
    store(state.row_max + v * kLanes, new_max);
    origin[v] = exponent_origin<VectorMath>(new_max);
    rescale[v] = rescale_factor<VectorMath>(old_max, new_max);
    sums[v] = broadcast(0.f);
  }
  for (std::int64_t k = begin; k < end; ++k) {
    for (int v = 0; v < kVectors; ++v) {
      float* at = scores + k * kRows + v * kLanes;
      const VecF weight = exp_nonpositive(load(at) - origin[v]);
      sums[v] += weight;
      store(at, weight);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    float* row_sum = state.row_sum + v * kLanes;
    store(row_sum, fmadd(load(row_sum), rescale[v], sums[v]));
  }
}

// sums[i][row] = sums[i][row] * rescale[row] + sum over the keys of factor(k, i) * weight[k][row],
// where factor(k, i) = factors[k * key_stride + i * item_stride]. The block is summed from zero
// and added once, which halves the rounding error of long rows.
template <int kVectors, int kItems>
GUIDE_INLINE void weighted_sum_micro_tile(const float* __restrict__ factors,
                                          std::int64_t key_stride, std::int64_t item_stride,
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
      const VecF factor = broadcast(factors[k * key_stride + i * item_stride]);
      for (int v = 0; v < kVectors; ++v) {
        block_sums[i][v] = fmadd(factor, rows[v], block_sums[i][v]);
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

// The block's part of out.
template <int kVectors>
void value_tile(const float* value, std::int64_t padded_head_dim_v, std::int64_t begin,
                std::int64_t end, const float* weights, const VecF (&rescale)[kVectors],
                float* out) {
  for (std::int64_t d = 0; d < padded_head_dim_v; d += kValueDims) {
    weighted_sum_micro_tile<kVectors, kValueDims>(value + d, padded_head_dim_v, 1, begin, end,
                                                  weights, rescale, out + d * kVectors * kLanes);
  }
}

// The block's part of influence_out: fp32 weights meet fp32 influence, channels two at a time.
template <int kVectors>
void influence_tile(const float* influence, std::int64_t channels, std::int64_t begin,
                    std::int64_t end, const float* weights, const VecF (&rescale)[kVectors],
                    float* sums) {
  constexpr int kRows = kVectors * kLanes;
  std::int64_t channel = 0;
  for (; channel + 2 <= channels; channel += 2) {
    weighted_sum_micro_tile<kVectors, 2>(influence + channel * kBlockN, 1, kBlockN, begin, end,
                                         weights, rescale, sums + channel * kRows);
  }
  if (channel < channels) {
    weighted_sum_micro_tile<kVectors, 1>(influence + channel * kBlockN, 1, kBlockN, begin, end,
                                         weights, rescale, sums + channel * kRows);
  }
}

// Adds one block of keys to the state of one tile. `scores` is scratch, [kBlockN, rows].
template <int kVectors, bool kSoftcap, bool kAddends>
void add_block(const AttentionParams& params, std::int64_t padded_head_dim_v, const KeyBlock& block,
               const BlockView& view, const float* query_t, const TileState& state, float* scores) {
  dot_tile<kVectors>(block.key, query_t, params.head_dim, view.begin, view.end, scores);
  const ScoreFactors factors = score_factors(params.scale, params.softcap, 1.f);
  VecF block_max[kVectors], rescale[kVectors];
  if (view.row_begin != nullptr) {
    score_tile<kVectors, kSoftcap, kAddends, true>(view, factors, scores, block_max);
  } else {
    score_tile<kVectors, kSoftcap, kAddends, false>(view, factors, scores, block_max);
  }
  softmax_tile<kVectors>(view.begin, view.end, block_max, scores, state, rescale);
  influence_tile<kVectors>(block.influence, params.channels, view.begin, view.end, scores, rescale,
                           state.influence);
  value_tile<kVectors>(block.value, padded_head_dim_v, view.begin, view.end, scores, rescale,
                       state.out);
}

}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
