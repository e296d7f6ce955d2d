// SPDX-License-Identifier: MIT
// The dense attn_bias, read score by score: the general and slow way.
#pragma once

#include "../math.cuh"
#include "products.cuh"

namespace guide::cuda::sm80 {

// How an element type of attn_bias is stored and what it means, in nats.
struct BoolBias {
  using Storage = std::uint8_t;
  static GUIDE_DEVICE float nats(std::uint8_t visible) {
    return visible != 0 ? 0.f : Math::negative_infinity();
  }
};
struct BFloat16Bias {
  using Storage = std::uint16_t;
  static GUIDE_DEVICE float nats(std::uint16_t bits) { return ptx::from_bfloat16(bits); }
};
struct Float16Bias {
  using Storage = std::uint16_t;
  static GUIDE_DEVICE float nats(std::uint16_t bits) { return ptx::from_float16(bits); }
};
struct Float32Bias {
  using Storage = float;
  static GUIDE_DEVICE float nats(float value) { return value; }
};
struct Float64Bias {
  using Storage = double;
  static GUIDE_DEVICE float nats(double value) { return bias_from_double(value); }
};

template <class Traits, class Bias>
GUIDE_DEVICE void add_dense_bias_of(const AttentionParams& params, std::int64_t head_offset,
                                    int q_begin, int k_begin, DotTiles<Traits>& scores) {
  using Storage = typename Bias::Storage;
  const Storage* head = static_cast<const Storage*>(params.attn_bias) + head_offset;
  const int lane = lane_index();
#pragma unroll
  for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int q_idx = q_begin + row_tile * 16 + half * 8 + lane / 4;
      if (q_idx >= params.seqlen_q) continue;
      const Storage* row = head + q_idx * params.attn_bias_row_stride;
#pragma unroll
      for (int j = 0; j < Traits::kBlockN / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int k_idx = k_begin + j * 8 + lane % 4 * 2 + e;
          if (k_idx >= params.seqlen_k) continue;
          const float bias = bias_in_unit<Math>(
              Bias::nats(ptx::load_global(row + k_idx * params.attn_bias_key_stride)), kBitsPerNat);
          float& score = scores[row_tile][j][half * 2 + e];
          // -inf hides a key even where its dot product is NaN or infinite.
          score = bias == Math::negative_infinity() ? bias : score + bias;
        }
      }
    }
  }
}

// Adds attn_bias to the scores of the queries from q_begin on, this warp's first, and the keys from
// k_begin on.
template <class Traits>
GUIDE_DEVICE void add_dense_bias(const AttentionParams& params, int batch_idx, int head_idx,
                                 int q_begin, int k_begin, DotTiles<Traits>& scores) {
  const std::int64_t offset =
      batch_idx * params.attn_bias_batch_stride + head_idx * params.attn_bias_head_stride;
  switch (params.attn_bias_type) {
    case ElementType::kBool:
      return add_dense_bias_of<Traits, BoolBias>(params, offset, q_begin, k_begin, scores);
    case ElementType::kBFloat16:
      return add_dense_bias_of<Traits, BFloat16Bias>(params, offset, q_begin, k_begin, scores);
    case ElementType::kFloat16:
      return add_dense_bias_of<Traits, Float16Bias>(params, offset, q_begin, k_begin, scores);
    case ElementType::kFloat64:
      return add_dense_bias_of<Traits, Float64Bias>(params, offset, q_begin, k_begin, scores);
    default:
      return add_dense_bias_of<Traits, Float32Bias>(params, offset, q_begin, k_begin, scores);
  }
}

}  // namespace guide::cuda::sm80
