// SPDX-License-Identifier: MIT
// Which keys the queries of a thread block see through the causal mask and the windows.
#pragma once

#include "../../score_mod.h"
#include "products.cuh"

namespace guide::cuda::sm80 {

// Limits are cut to [0, seqlen_k], which fits in 32 bits.
template <class Traits>
class Visibility {
 public:
  // `start` is the position of query row 0 on the key axis, q_begin the first query of the block.
  GUIDE_DEVICE Visibility(const AttentionParams& params, std::int64_t start, int q_begin) {
    const std::int64_t position = start + q_begin;
    int num_rows = static_cast<int>(params.seqlen_q) - q_begin;
    if (num_rows > Traits::kBlockM) num_rows = Traits::kBlockM;
    // Both limits grow with the position, so the outermost rows tell.
    const Limits top = limits_at(params, position);
    const Limits bottom = limits_at(params, position + num_rows - 1);
    all_ = {bottom.begin, top.end};
    first_block_ = top.begin / Traits::kBlockN;
    end_block_ = top.begin < bottom.end ? (bottom.end + Traits::kBlockN - 1) / Traits::kBlockN
                                        : first_block_;
    const int own_row = warp_index() * Traits::kRowTiles * 16 + lane_index() / 4;
#pragma unroll
    for (int i = 0; i < 2 * Traits::kRowTiles; ++i) {
      rows_[i] = limits_at(params, position + own_row + i * 8);
    }
  }

  // Blocks of keys that any query sees: [first_block(), end_block()).
  GUIDE_DEVICE int first_block() const { return first_block_; }
  GUIDE_DEVICE int end_block() const { return end_block_; }

  // Whether a query may not see some key of the block that starts at k_begin.
  GUIDE_DEVICE bool is_partial(int k_begin) const {
    return k_begin < all_.begin || k_begin + Traits::kBlockN > all_.end;
  }

  GUIDE_DEVICE void hide(int k_begin, DotTiles<Traits>& scores) const {
    const int column = k_begin + lane_index() % 4 * 2;
#pragma unroll
    for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
#pragma unroll
      for (int j = 0; j < Traits::kBlockN / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const Limits limits = rows_[row_tile * 2 + e / 2];
          const int k_idx = column + j * 8 + e % 2;
          float& score = scores[row_tile][j][e];
          score = limits.begin <= k_idx && k_idx < limits.end ? score : Math::negative_infinity();
        }
      }
    }
  }

 private:
  struct Limits {
    int begin;
    int end;
  };

  // Keys that the row at a position of the key axis sees, cut to [0, seqlen_k]: 32 bits do.
  static GUIDE_DEVICE Limits limits_at(const AttentionParams& params, std::int64_t position) {
    const KeyRange range = visible_keys(params, position);
    const auto cut = [&](std::int64_t k_idx) {
      return static_cast<int>(k_idx < 0 ? 0 : k_idx > params.seqlen_k ? params.seqlen_k : k_idx);
    };
    return {cut(range.begin), cut(range.end)};
  }

  Limits all_;                          // keys that every row sees
  Limits rows_[2 * Traits::kRowTiles];  // of this thread
  int first_block_;
  int end_block_;
};

}  // namespace guide::cuda::sm80
