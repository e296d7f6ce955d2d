// SPDX-License-Identifier: MIT
// The two products of a tile of rows and a block of keys, by tiles of Intel AMX: Q K^T and P V,
// both transposed, so that lanes are rows as everywhere.
#pragma once

#include "amx_tiles-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace prefill {

// scores[k][row] = K[k] . Q[row] for the keys [begin, end) and those that share a tile with them.
// Rows of `key` are whole tiles of words, whose last are zeros, as those of `query_t`.
inline void dot_tiles(const float* key, std::int64_t key_stride, std::int64_t begin,
                      std::int64_t end, const float* query_t, std::int64_t num_words,
                      float* scores) {
  const std::int64_t num_steps = ceil_div(num_words, kTileSide);
  for (std::int64_t k = begin / kPairSide * kPairSide; k < end; k += kPairSide) {
    const float* keys = key + k * key_stride;
    const auto left_of = [&](std::int64_t step) {
      return TileColumn{keys + step * kTileSide, key_stride};
    };
    multiply_tiles<true>(left_of, query_t, num_steps, scores + k * kPairSide);
  }
}

// The words [begin, end) of the tile of words `column`, for every dimension, and zeros for the
// others: behind them may lie an infinite number, which times a weight of 0 is no number.
inline void cut_column(const float* value_t, std::int64_t value_stride, std::int64_t column,
                       std::int64_t num_dims, std::int64_t begin, std::int64_t end, float* target) {
  for (std::int64_t word = 0; word < kTileSide; word += kLanes) {
    VecI is_inside;
    for (int lane = 0; lane < kLanes; ++lane) {
      const std::int64_t place = column * kTileSide + word + lane;
      is_inside[lane] = begin <= place && place < end ? -1 : 0;
    }
    const float* source = value_t + column * kTileSide + word;
    for (std::int64_t d = 0; d < num_dims; ++d) {
      store(target + d * kTileSide + word,
            select(is_inside, load(source + d * value_stride), broadcast(0.f)));
    }
  }
}

// out[d][row] = out[d][row] * rescale[row] + sum over the words [begin, end) of V^T[d][word] *
// weights[word][row], for `num_dims` dimensions. Rows of V^T are there up to a whole tile of
// dimensions. Weights beside the range that share a tile with it become zeros. `cut_columns` is
// scratch for two columns of tiles.
template <int kVectors>
void add_value_tiles(const float* value_t, std::int64_t value_stride, std::int64_t num_dims,
                     std::int64_t begin, std::int64_t end, float* weights,
                     const VecF (&rescale)[kVectors], float* cut_columns, float* out) {
  static_assert(kVectors * kLanes == kPairSide);
  const std::int64_t padded_dims = round_up(num_dims, kTileSide);
  const std::int64_t first = begin / kTileSide, last = ceil_div(end, kTileSide) - 1;
  for (std::int64_t i = first * kTileSide * kPairSide; i < begin * kPairSide; ++i) weights[i] = 0.f;
  for (std::int64_t i = end * kPairSide; i < (last + 1) * kTileSide * kPairSide; ++i) {
    weights[i] = 0.f;
  }
  const auto is_cut = [&](std::int64_t column) {
    return column * kTileSide < begin || end < (column + 1) * kTileSide;
  };
  const auto cut_copy = [&](std::int64_t column) {
    return cut_columns + (column == first ? 0 : padded_dims * kTileSide);
  };
  if (is_cut(first)) {
    cut_column(value_t, value_stride, first, padded_dims, begin, end, cut_copy(first));
  }
  if (last != first && is_cut(last)) {
    cut_column(value_t, value_stride, last, padded_dims, begin, end, cut_copy(last));
  }
  for (std::int64_t d = 0; d < padded_dims; d += kPairSide) {
    const auto left_of = [&](std::int64_t step) {
      const std::int64_t column = first + step;
      return is_cut(column)
                 ? TileColumn{cut_copy(column) + d * kTileSide, kTileSide}
                 : TileColumn{value_t + d * value_stride + column * kTileSide, value_stride};
    };
    const float* right = weights + first * kTileSide * kPairSide;
    // Summed from zero and added once, as weighted_sum_micro_tile does.
    alignas(64) float sums[kPairSide * kPairSide];
    if (d + kTileSide < padded_dims) {
      multiply_tiles<true>(left_of, right, last + 1 - first, sums);
    } else {
      multiply_tiles<false>(left_of, right, last + 1 - first, sums);
    }
    const std::int64_t dims = min_of(kPairSide, num_dims - d);
    for (std::int64_t i = 0; i < dims; ++i) {
      for (int v = 0; v < kVectors; ++v) {
        float* at = out + (d + i) * kPairSide + v * kLanes;
        store(at, fmadd(load(at), rescale[v], load(sums + i * kPairSide + v * kLanes)));
      }
    }
  }
}

}  // namespace prefill
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
