// SPDX-License-Identifier: MIT
// Between tensors with strides and the packed arrays of a task.
#pragma once

#include "elements-inl.h"
#include "plan-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {

// A row of a [batch, heads, rows, elements] tensor.
template <class Element>
GUIDE_INLINE const typename Element::Storage* row_of(const void* base, const RowStrides& strides,
                                                     std::int64_t batch_idx, std::int64_t head_idx,
                                                     std::int64_t row_idx) {
  return static_cast<const typename Element::Storage*>(base) + batch_idx * strides.batch +
         head_idx * strides.head + row_idx * strides.row;
}

// query_t[d][row] of one tile. `row_buffer` holds head_dim floats.
template <class Element>
void pack_queries(const AttentionParams& params, std::int64_t rows, const Group& group,
                  const TileRows& tile, float* row_buffer, float* query_t) {
  for (std::int64_t row = 0; row < rows; ++row) {
    decode_row<Element>(row_of<Element>(params.query, params.query_strides, group.batch_idx,
                                        tile.head_idx[row], tile.q_idx[row]),
                        params.head_dim, params.head_dim, row_buffer);
    for (std::int64_t d = 0; d < params.head_dim; ++d) query_t[d * rows + row] = row_buffer[d];
  }
}

// Keys [k_begin, k_begin + num_keys) with their values and influence.
template <class Element>
KeyBlock pack_keys(const AttentionParams& params, const Plan& plan, const Group& group,
                   std::int64_t k_begin, std::int64_t num_keys, const Scratch& scratch) {
  for (std::int64_t k = 0; k < num_keys; ++k) {
    decode_row<Element>(row_of<Element>(params.key, params.key_strides, group.batch_idx,
                                        group.kv_head_idx, k_begin + k),
                        params.head_dim, params.head_dim, scratch.key + k * params.head_dim);
    decode_row<Element>(row_of<Element>(params.value, params.value_strides, group.batch_idx,
                                        group.kv_head_idx, k_begin + k),
                        params.head_dim_v, plan.padded_head_dim_v,
                        scratch.value + k * plan.padded_head_dim_v);
  }
  // The last dot-product micro-tile reads on to a multiple of kDotKeys.
  float* key_end = scratch.key + num_keys * params.head_dim;
  const std::int64_t missing = round_up(num_keys, kDotKeys) - num_keys;
  for (std::int64_t i = 0; i < missing * params.head_dim; ++i) key_end[i] = 0.f;

  for (std::int64_t channel = 0; channel < params.channels; ++channel) {
    const float* source = params.influence + group.batch_idx * params.influence_batch_stride +
                          channel * params.influence_channel_stride +
                          k_begin * params.influence_key_stride;
    float* target = scratch.influence + channel * kBlockN;
    for (std::int64_t k = 0; k < num_keys; ++k) {
      target[k] = source[k * params.influence_key_stride];
    }
  }
  return {scratch.key, scratch.value, scratch.influence};
}

// The bias of one head on the keys of a block; zeros without key_bias, so that no bias and a bias
// of 0 run the same code and give the same bits.
inline void pack_key_bias(const AttentionParams& params, std::int64_t batch_idx,
                          std::int64_t head_idx, std::int64_t k_begin, std::int64_t num_keys,
                          float* target) {
  if (params.key_bias == nullptr) {
    for (std::int64_t k = 0; k < num_keys; ++k) target[k] = 0.f;
    return;
  }
  const float* source = params.key_bias + batch_idx * params.key_bias_batch_stride +
                        head_idx * params.key_bias_head_stride +
                        k_begin * params.key_bias_key_stride;
  for (std::int64_t k = 0; k < num_keys; ++k) target[k] = source[k * params.key_bias_key_stride];
}

// key_bias + attn_bias for every row and key of a tile: addends[k][row].
inline void pack_addends(const AttentionParams& params, std::int64_t rows, std::int64_t batch_idx,
                         const TileRows& tile, std::int64_t k_begin, std::int64_t num_keys,
                         float* key_bias, float* addends) {
  for (std::int64_t row = 0; row < rows; ++row) {
    pack_key_bias(params, batch_idx, tile.head_idx[row], k_begin, num_keys, key_bias);
    if (params.attn_bias == nullptr) {
      for (std::int64_t k = 0; k < num_keys; ++k) addends[k * rows + row] = key_bias[k];
      continue;
    }
    const std::int64_t first = batch_idx * params.attn_bias_batch_stride +
                               tile.head_idx[row] * params.attn_bias_head_stride +
                               tile.q_idx[row] * params.attn_bias_row_stride +
                               k_begin * params.attn_bias_key_stride;
    for (std::int64_t k = 0; k < num_keys; ++k) {
      const float bias = decode_any(params.attn_bias, params.attn_bias_type,
                                    first + k * params.attn_bias_key_stride);
      addends[k * rows + row] = bias == -kInfinity ? bias : key_bias[k] + bias;
    }
  }
}

// Divides by the sums, lets the sinks join them, and writes the rows of a tile.
template <class Element>
void write_results(const AttentionParams& params, std::int64_t rows, const Group& group,
                   const TileRows& tile, const TileState& state, float* row_buffer) {
  for (std::int64_t row = 0; row < tile.num_rows; ++row) {
    const std::int64_t head_idx = tile.head_idx[row];
    const std::int64_t q_idx = tile.q_idx[row];
    float row_max = state.row_max[row];
    float row_sum = state.row_sum[row];
    const bool sees_nothing = row_sum == 0.f;  // false for NaN; the largest weight is 1
    float factor = 1.f;
    if (params.sinks != nullptr && !sees_nothing) {
      const float sink =
          decode_any(params.sinks, params.sinks_type, head_idx * params.sinks_stride);
      const float new_max = sink > row_max ? sink : row_max;
      factor = __builtin_expf(row_max - new_max);
      row_sum = row_sum * factor + __builtin_expf(sink - new_max);
      row_max = new_max;
    }
    factor = sees_nothing ? 0.f : factor / row_sum;

    const std::int64_t row_idx =
        (group.batch_idx * params.num_heads + head_idx) * params.seqlen_q + q_idx;
    params.lse[row_idx] = sees_nothing ? -kInfinity : row_max + __builtin_logf(row_sum);
    for (std::int64_t channel = 0; channel < params.channels; ++channel) {
      const std::int64_t plane = group.batch_idx * params.channels + channel;
      params.influence_out[(plane * params.num_heads + head_idx) * params.seqlen_q + q_idx] =
          state.influence[channel * rows + row] * factor;
    }
    auto* out = static_cast<typename Element::Storage*>(params.out) +
                group.batch_idx * params.out_strides.batch + head_idx * params.out_strides.head +
                q_idx * params.out_strides.row;
    for (std::int64_t d = 0; d < params.head_dim_v; ++d) {
      row_buffer[d] = state.out[d * rows + row] * factor;
    }
    for (std::int64_t d = 0; d < params.head_dim_v; ++d) out[d] = Element::encode(row_buffer[d]);
  }
}

}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
