// SPDX-License-Identifier: MIT
// From dot products to weights, and what is summed with them besides out.
#pragma once

#include "key_vectors.cuh"
#include "products.cuh"

namespace guide::cuda::sm80 {

constexpr unsigned kWholeWarp = 0xffffffffu;

// Running state of the rows of a thread, [row tile][half]: row lane / 4 of the tile and the one 8
// below. Four neighbouring threads share a row: they agree on its maximum, and each has the sums
// over its own columns.
template <class Traits>
struct RowState {
  static constexpr int kInfluences = Traits::kChannels > 0 ? Traits::kChannels : 1;

  float row_max[Traits::kRowTiles][2];  // bits
  float row_sum[Traits::kRowTiles][2];
  float influence[kInfluences][Traits::kRowTiles][2];

  GUIDE_DEVICE RowState() {
#pragma unroll
    for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        row_max[row_tile][half] = Math::negative_infinity();
        row_sum[row_tile][half] = 0.f;
#pragma unroll
        for (int channel = 0; channel < kInfluences; ++channel) {
          influence[channel][row_tile][half] = 0.f;
        }
      }
    }
  }
};

template <class Combine>
GUIDE_DEVICE float combine_quad(float value, const Combine& combine) {
  value = combine(value, __shfl_xor_sync(kWholeWarp, value, 1));
  return combine(value, __shfl_xor_sync(kWholeWarp, value, 2));
}

GUIDE_DEVICE float sum_of_quad(float value) {
  return combine_quad(value, [](float a, float b) { return a + b; });
}

// Dot products to scores in bits, in place.
template <class Traits, bool kSoftcap>
GUIDE_DEVICE void add_key_bias(const KeyVectors<Traits>& vectors, int stage, ScoreFactors factors,
                               DotTiles<Traits>& scores) {
#pragma unroll
  for (int j = 0; j < Traits::kBlockN / 8; ++j) {
    const float2 bias = vectors.bias_pair(stage, j * 8 + lane_index() % 4 * 2);
#pragma unroll
    for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float& score = scores[row_tile][j][e];
        score = score_of<kSoftcap, Math>(score, factors, e % 2 == 0 ? bias.x : bias.y);
      }
    }
  }
}

// The largest score of each row in the block.
template <class Traits, class Larger>
GUIDE_DEVICE void find_block_max(const DotTiles<Traits>& scores, const Larger& larger,
                                 float (&block_max)[Traits::kRowTiles][2]) {
#pragma unroll
  for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = Math::negative_infinity();
#pragma unroll
      for (int j = 0; j < Traits::kBlockN / 8; ++j) {
        largest = larger(largest, scores[row_tile][j][half * 2]);
        largest = larger(largest, scores[row_tile][j][half * 2 + 1]);
      }
      block_max[row_tile][half] = combine_quad(largest, larger);
    }
  }
}

// A key whose bias is -inf is hidden whatever its dot product is, but NaN or inf plus -inf is NaN.
// Such scores are rare and show in a maximum that lets NaN through, so they are mended here and
// cost nothing elsewhere. A NaN that is left belongs to a visible key.
template <class Traits>
GUIDE_DEVICE void mend_hidden_keys(const KeyVectors<Traits>& vectors, int stage,
                                   DotTiles<Traits>& scores,
                                   float (&block_max)[Traits::kRowTiles][2]) {
#pragma unroll
  for (int j = 0; j < Traits::kBlockN / 8; ++j) {
    const float2 bias = vectors.bias_pair(stage, j * 8 + lane_index() % 4 * 2);
#pragma unroll
    for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float own = e % 2 == 0 ? bias.x : bias.y;
        if (own == Math::negative_infinity()) scores[row_tile][j][e] = own;
      }
    }
  }
  find_block_max<Traits>(scores, [](float a, float b) { return fmaxf(a, b); }, block_max);
}

// Finds the maxima of the block and of all blocks so far. `factors` takes sums measured from the
// old maxima to the new ones. Returns whether any row of the warp has a larger maximum than before.
template <class Traits>
GUIDE_DEVICE bool raise_row_max(const KeyVectors<Traits>& vectors, int stage,
                                DotTiles<Traits>& scores, RowState<Traits>& state,
                                float (&factors)[Traits::kRowTiles][2]) {
  float block_max[Traits::kRowTiles][2];
  find_block_max<Traits>(scores, [](float a, float b) { return ptx::max_or_nan(a, b); }, block_max);
  bool has_nan = false;
#pragma unroll
  for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      has_nan = has_nan || block_max[row_tile][half] != block_max[row_tile][half];
    }
  }
  if (__any_sync(kWholeWarp, has_nan)) {
    mend_hidden_keys<Traits>(vectors, stage, scores, block_max);
  }
  bool has_grown = false;
#pragma unroll
  for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float old_max = state.row_max[row_tile][half];
      const float new_max = fmaxf(old_max, block_max[row_tile][half]);
      state.row_max[row_tile][half] = new_max;
      factors[row_tile][half] = rescale_factor<Math>(old_max, new_max);
      has_grown = has_grown || new_max != old_max;
    }
  }
  return __any_sync(kWholeWarp, has_grown);
}

// Scores to weights, in place, and their sums.
template <class Traits>
GUIDE_DEVICE void weigh(const float (&factors)[Traits::kRowTiles][2], DotTiles<Traits>& scores,
                        RowState<Traits>& state) {
#pragma unroll
  for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float origin = exponent_origin<Math>(state.row_max[row_tile][half]);
      // A block is summed from zero and added once: long rows keep their small weights.
      float block_sum = 0.f;
#pragma unroll
      for (int j = 0; j < Traits::kBlockN / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& weight = scores[row_tile][j][half * 2 + e];
          weight = Math::exp(weight - origin);
          block_sum += weight;
        }
      }
      float& row_sum = state.row_sum[row_tile][half];
      row_sum = fmaf(row_sum, factors[row_tile][half], block_sum);
    }
  }
}

// The block's part of influence_out: fp32 weights meet fp32 influence.
template <class Traits>
GUIDE_DEVICE void add_influence(const KeyVectors<Traits>& vectors, int stage, int channel,
                                const DotTiles<Traits>& weights,
                                const float (&factors)[Traits::kRowTiles][2],
                                RowState<Traits>& state) {
  float block_sum[Traits::kRowTiles][2];
#pragma unroll
  for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
    block_sum[row_tile][0] = block_sum[row_tile][1] = 0.f;
  }
#pragma unroll
  for (int j = 0; j < Traits::kBlockN / 8; ++j) {
    const float2 influence = vectors.influence_pair(stage, channel, j * 8 + lane_index() % 4 * 2);
#pragma unroll
    for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float& sum = block_sum[row_tile][half];
        sum = fmaf(weights[row_tile][j][half * 2], influence.x, sum);
        sum = fmaf(weights[row_tile][j][half * 2 + 1], influence.y, sum);
      }
    }
  }
#pragma unroll
  for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float& sum = state.influence[channel][row_tile][half];
      sum = fmaf(sum, factors[row_tile][half], block_sum[row_tile][half]);
    }
  }
}

template <class Traits>
GUIDE_DEVICE void rescale(const float (&factors)[Traits::kRowTiles][2], OutTiles<Traits>& out) {
#pragma unroll
  for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
#pragma unroll
    for (int i = 0; i < Traits::kHeadDim / 8; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) out[row_tile][i][e] *= factors[row_tile][e / 2];
    }
  }
}

}  // namespace guide::cuda::sm80
