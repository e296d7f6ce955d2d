// SPDX-License-Identifier: MIT
// A block of rows against the keys of a task: weights, and gradients of scores. Lanes are keys, so
// that the gradients of bias and influence are vertical sums.
#pragma once

#include "../../online_softmax.h"
#include "../math-inl.h"
#include "products-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace backward {

// What the rows of a block see of the keys of a task. Rows after the last, and rows that see
// nothing at all, see nothing here.
struct View {
  std::int32_t begin[kBlockM];  // keys that a row sees
  std::int32_t end[kBlockM];
  KeyRange any[kBlockM / kTileRows];  // keys that some row of a tile sees
  KeyRange all[kBlockM / kTileRows];  // keys that all of them see
  bool bias_hides;                    // some key, or there is attn_bias
  const float* bias;                  // [keys], or [rows, keys] with a stride
  std::int64_t bias_stride;           // 0: all rows have one bias
};

// What tells a row's weights and gradients from its scores.
struct RowFactors {
  float origin[kBlockM];
  float factor[kBlockM];
  float delta[kBlockM];
};

GUIDE_INLINE VecI lane_numbers() {
  VecI lanes{};
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = lane;
  return lanes;
}

// Which of kLanes keys from `k` on a row sees.
GUIDE_INLINE VecI seen_by(const View& view, std::int64_t row, std::int64_t k, VecF bias) {
  const VecI key_idx = lane_numbers() + static_cast<std::int32_t>(k);
  return (key_idx >= view.begin[row]) & (key_idx < view.end[row]) & (bias != broadcast(-kInfinity));
}

GUIDE_INLINE VecF bias_at(const View& view, std::int64_t row, std::int64_t k) {
  return load(view.bias + row * view.bias_stride + k);
}

enum class TileKind { kHidden, kMixed, kClear };

// How the tile of rows from `row` on sees the panel of keys from `k` on.
GUIDE_INLINE TileKind kind_of(const View& view, std::int64_t row, std::int64_t k) {
  const KeyRange any = view.any[row / kTileRows];
  const KeyRange all = view.all[row / kTileRows];
  if (any.end <= k || any.begin >= k + kPanel || any.begin >= any.end) return TileKind::kHidden;
  const bool is_clear = !view.bias_hides && all.begin <= k && k + kPanel <= all.end;
  return is_clear ? TileKind::kClear : TileKind::kMixed;
}

inline void clear_tile(float* tile, std::int64_t stride) {
  for (int i = 0; i < kTileRows; ++i) {
    for (int v = 0; v < kTileVectors; ++v) store(tile + i * stride + v * kLanes, broadcast(0.f));
  }
}

// Scores of a tile in bits; -inf for keys that a row does not see.
template <bool kSoftcap>
GUIDE_INLINE void score_tile(const AttentionParams& call, const Scratch& scratch, const View& view,
                             ScoreFactors factors, std::int64_t row, std::int64_t k, Tile& tile,
                             Tile* slopes) {
  multiply(scratch.query + row * row_stride(padded_dim(call.head_dim)),
           row_stride(padded_dim(call.head_dim)), 1, scratch.key_panels + k * call.head_dim, kPanel,
           call.head_dim, tile);
  for (int i = 0; i < kTileRows; ++i) {
    for (int v = 0; v < kTileVectors; ++v) {
      const VecF bias = bias_at(view, row + i, k + v * kLanes);
      if (kSoftcap && slopes != nullptr) {
        (*slopes)[i][v] = softcap_slope<BitsMath>(tile[i][v], factors);
      }
      tile[i][v] = score_of<kSoftcap, BitsMath>(tile[i][v], factors, bias);
    }
  }
}

template <bool kSoftcap, bool kClear>
GUIDE_INLINE void prob_tile(const AttentionParams& call, const Scratch& scratch, const View& view,
                            const RowFactors& rows, ScoreFactors factors, std::int64_t stride,
                            std::int64_t row, std::int64_t k) {
  Tile tile;
  [[maybe_unused]] Tile slopes;
  score_tile<kSoftcap>(call, scratch, view, factors, row, k, tile, &slopes);
  for (int i = 0; i < kTileRows; ++i) {
    const VecF origin = broadcast(rows.origin[row + i]);
    const VecF factor = broadcast(rows.factor[row + i]);
    for (int v = 0; v < kTileVectors; ++v) {
      VecF prob = exp2_nonpositive(tile[i][v] - origin) * factor;
      const std::int64_t at = (row + i) * stride + k + v * kLanes;
      if constexpr (!kClear) {
        // Not by the score alone: where a dot product is NaN a hidden key's is, too.
        const VecF bias = bias_at(view, row + i, k + v * kLanes);
        prob = select(seen_by(view, row + i, k + v * kLanes, bias), prob, broadcast(0.f));
      }
      store(scratch.prob + at, prob);
      if constexpr (kSoftcap) store(scratch.slope + at, slopes[i][v]);
    }
  }
}

// Weights of all tiles of a block, 0 for keys that a row does not see.
template <bool kSoftcap>
void prob_tiles(const AttentionParams& call, const Scratch& scratch, const View& view,
                const RowFactors& rows, std::int64_t num_rows, std::int64_t num_keys,
                std::int64_t stride) {
  const ScoreFactors factors = score_factors(call.scale, call.softcap, BitsMath::kUnit);
  for (std::int64_t k = 0; k < num_keys; k += kPanel) {
    for (std::int64_t row = 0; row < num_rows; row += kTileRows) {
      switch (kind_of(view, row, k)) {
        case TileKind::kHidden:
          clear_tile(scratch.prob + row * stride + k, stride);
          break;
        case TileKind::kMixed:
          prob_tile<kSoftcap, false>(call, scratch, view, rows, factors, stride, row, k);
          break;
        case TileKind::kClear:
          prob_tile<kSoftcap, true>(call, scratch, view, rows, factors, stride, row, k);
      }
    }
  }
}

// Which gradients a block needs besides those of query and key.
struct TileNeeds {
  bool grad_out;        // reaches out
  bool grad_flow;       // reaches influence_out
  bool bias_sums;       // of grad_key_bias
  bool influence_sums;  // of grad_influence
};

template <bool kSoftcap, bool kClear>
GUIDE_INLINE void grad_score_tile(const AttentionParams& call, const Scratch& scratch,
                                  const View& view, const RowFactors& rows, TileNeeds needs,
                                  std::int64_t keys, std::int64_t row, std::int64_t k) {
  const std::int64_t stride = row_stride(keys);
  const float* prob = scratch.prob + row * stride + k;
  const auto seen = [&](int i, int v) {
    return seen_by(view, row + i, k + v * kLanes, bias_at(view, row + i, k + v * kLanes));
  };
  Tile tile;
  const std::int64_t value_stride = row_stride(padded_dim(call.head_dim_v));
  multiply(scratch.grad_out + row * value_stride, value_stride, 1,
           scratch.value_panels + k * call.head_dim_v, kPanel, needs.grad_out ? call.head_dim_v : 0,
           tile);
  for (std::int64_t channel = 0; needs.grad_flow && channel < call.channels; ++channel) {
    for (int v = 0; v < kTileVectors; ++v) {
      const VecF influence = load(scratch.influence + channel * keys + k + v * kLanes);
      VecF sum = broadcast(0.f);
      for (int i = 0; i < kTileRows; ++i) {
        const VecF flow = broadcast(scratch.grad_flow[(row + i) * call.channels + channel]);
        tile[i][v] = fmadd(flow, influence, tile[i][v]);
        const VecF with_row = fmadd(load(prob + i * stride + v * kLanes), flow, sum);
        sum = kClear ? with_row : select(seen(i, v), with_row, sum);
      }
      float* at = scratch.block_influence + channel * keys + k + v * kLanes;
      if (needs.influence_sums) store(at, load(at) + sum);
    }
  }
  VecF bias_sums[kTileVectors];
  for (int v = 0; v < kTileVectors; ++v) bias_sums[v] = broadcast(0.f);
  for (int i = 0; i < kTileRows; ++i) {
    const VecF delta = broadcast(rows.delta[row + i]);
    for (int v = 0; v < kTileVectors; ++v) {
      VecF grad = load(prob + i * stride + v * kLanes) * (tile[i][v] - delta);
      VecI is_seen{};
      if constexpr (!kClear) {
        is_seen = seen(i, v);
        grad = select(is_seen, grad, broadcast(0.f));
      }
      bias_sums[v] += grad;
      const std::int64_t at = (row + i) * stride + k + v * kLanes;
      if constexpr (kSoftcap) {
        grad = grad * load(scratch.slope + at);
        if constexpr (!kClear) grad = select(is_seen, grad, broadcast(0.f));
      }
      store(scratch.grad_score + at, grad);
    }
  }
  if (needs.bias_sums) {
    for (int v = 0; v < kTileVectors; ++v) {
      float* at = scratch.block_bias + k + v * kLanes;
      store(at, load(at) + bias_sums[v]);
    }
  }
}

// Gradients of the scores of all tiles of a block from their weights, 0 for keys that a row does
// not see; adds to block_bias and block_influence.
template <bool kSoftcap>
void grad_score_tiles(const AttentionParams& call, const Scratch& scratch, const View& view,
                      const RowFactors& rows, TileNeeds needs, std::int64_t num_rows,
                      std::int64_t num_keys, std::int64_t keys) {
  for (std::int64_t k = 0; k < num_keys; k += kPanel) {
    for (std::int64_t row = 0; row < num_rows; row += kTileRows) {
      switch (kind_of(view, row, k)) {
        case TileKind::kHidden:
          clear_tile(scratch.grad_score + row * row_stride(keys) + k, row_stride(keys));
          break;
        case TileKind::kMixed:
          grad_score_tile<kSoftcap, false>(call, scratch, view, rows, needs, keys, row, k);
          break;
        case TileKind::kClear:
          grad_score_tile<kSoftcap, true>(call, scratch, view, rows, needs, keys, row, k);
      }
    }
  }
}

}  // namespace backward
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
