// SPDX-License-Identifier: MIT
// Rows and keys from tensors with strides to the fp32 arrays of a task.
#pragma once

#include "../rows-inl.h"
#include "tile-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace backward {

inline void clear(float* target, std::int64_t count) {
  __builtin_memset(target, 0, static_cast<std::size_t>(count) * sizeof(float));
}

// Makes 0 of what is NaN or infinite; says whether there was any. `count` is whole vectors.
GUIDE_INLINE bool make_finite(float* row, std::int64_t count) {
  VecI found{};
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const VecI bits = (VecI)load(row + i);
    const VecI is_special = (bits & 0x7f800000) == 0x7f800000;
    found |= is_special;
    store(row + i, select(is_special, broadcast(0.f), (VecF)bits));
  }
  return any(found);
}

GUIDE_INLINE bool is_finite(const float* row, std::int64_t count) {
  VecI found{};
  for (std::int64_t i = 0; i < count; i += kLanes) {
    found |= ((VecI)load(row + i) & 0x7f800000) == 0x7f800000;
  }
  return !any(found);
}

// The same for a row whose elements may lie apart, as those of an expanded gradient do.
template <class Element>
GUIDE_INLINE void decode_strided_row(const typename Element::Storage* source, std::int64_t stride,
                                     std::int64_t count, std::int64_t padded_count, float* target) {
  if (stride == 1) return decode_row<Element>(source, count, padded_count, target);
  for (std::int64_t i = 0; i < count; ++i) target[i] = Element::decode(source[i * stride]);
  for (std::int64_t i = count; i < padded_count; ++i) target[i] = 0.f;
}

// panels[panel][d][key of the panel] from rows of keys, whole panels of them.
inline void transpose_to_panels(const float* rows, std::int64_t stride, std::int64_t num_keys,
                                std::int64_t head_dim, float* panels) {
  for (std::int64_t k = 0; k < num_keys; k += kLanes) {
    float* panel = panels + k / kPanel * kPanel * head_dim + k % kPanel;
    for (std::int64_t d = 0; d < head_dim; d += kLanes) {  // rows are padded to whole vectors
      VecF numbers[kLanes];
      for (int i = 0; i < kLanes; ++i) numbers[i] = load(rows + (k + i) * stride + d);
      transpose(numbers);
      const std::int64_t present = min_of(kLanes, head_dim - d);
      for (std::int64_t i = 0; i < present; ++i) store(panel + (d + i) * kPanel, numbers[i]);
    }
  }
}

// Keys of a task.
struct KeyBlock {
  std::int64_t batch_idx;
  std::int64_t kv_head_idx;
  std::int64_t k_begin;
  std::int64_t num_keys;
  std::int64_t padded_keys;  // whole panels
};

// Panels of K or V; `rows` gets the keys as they lie, whole panels of them.
template <class Element>
void pack_panels(const void* base, const RowStrides& strides, const KeyBlock& block,
                 std::int64_t head_dim, float* rows, float* panels) {
  const std::int64_t padded = padded_dim(head_dim);
  const std::int64_t stride = row_stride(padded);
  const auto* source =
      row_of<Element>(base, strides, block.batch_idx, block.kv_head_idx, block.k_begin);
  for (std::int64_t k = 0; k < block.num_keys; ++k) {
    decode_row<Element>(source + k * strides.row, head_dim, padded, rows + k * stride);
  }
  for (std::int64_t k = block.num_keys; k < block.padded_keys; ++k) {
    clear(rows + k * stride, padded);
  }
  transpose_to_panels(rows, stride, block.padded_keys, head_dim, panels);
}

inline void pack_influence(const AttentionParams& call, const KeyBlock& block, std::int64_t keys,
                           float* target) {
  for (std::int64_t channel = 0; channel < call.channels; ++channel) {
    const float* source = call.influence + block.batch_idx * call.influence_batch_stride +
                          channel * call.influence_channel_stride +
                          block.k_begin * call.influence_key_stride;
    float* row = target + channel * keys;
    for (std::int64_t k = 0; k < block.num_keys; ++k)
      row[k] = source[k * call.influence_key_stride];
    for (std::int64_t k = block.num_keys; k < keys; ++k) row[k] = 0.f;
  }
}

// The bias of a head on the keys of a task; zeros without one. True if it hides a key.
inline bool pack_bias(const AttentionParams& call, const KeyBlock& block, std::int64_t head_idx,
                      std::int64_t keys, float* target) {
  clear(target, keys);
  return pack_key_bias<BitsMath>(call, block.batch_idx, head_idx, block.k_begin, block.num_keys,
                                 target);
}

// key_bias + attn_bias for every row and key.
inline void pack_dense_bias(const AttentionParams& call, const KeyBlock& keys, const RowBlock& rows,
                            const float* key_bias, std::int64_t stride, float* target) {
  for (std::int64_t row = 0; row < kBlockM; ++row) {
    const std::int64_t q_idx = rows.q_begin + min_of(row, rows.num_rows - 1);
    float* biases = target + row * stride;
    pack_row_addends<BitsMath>(call, rows.batch_idx, rows.head_idx, q_idx, keys.k_begin,
                               keys.num_keys, key_bias, biases);
    for (std::int64_t k = round_up(keys.num_keys, kLanes); k < stride; ++k) biases[k] = 0.f;
  }
}

// Whether rows of a block see nothing at all: their results are constants.
GUIDE_INLINE bool is_blind(float lse) { return lse == -kInfinity; }

GUIDE_INLINE float lse_of(const BackwardParams& params, const RowBlock& block, std::int64_t row) {
  return params
      .lse[block.batch_idx * params.lse_strides.batch + block.head_idx * params.lse_strides.head +
           (block.q_begin + row) * params.lse_strides.row];
}

// Queries of a block, zeros for rows that see nothing and after the last.
template <class Element>
void pack_queries(const BackwardParams& params, const RowBlock& block, float* target) {
  const AttentionParams& call = params.call;
  const std::int64_t padded = padded_dim(call.head_dim);
  const auto* source = row_of<Element>(call.query, call.query_strides, block.batch_idx,
                                       block.head_idx, block.q_begin);
  for (std::int64_t row = 0; row < kBlockM; ++row) {
    float* numbers = target + row * row_stride(padded);
    if (row < block.num_rows && !is_blind(lse_of(params, block, row))) {
      decode_row<Element>(source + row * call.query_strides.row, call.head_dim, padded, numbers);
    } else {
      clear(numbers, padded);
    }
  }
}

// What reached out, likewise. Says whether all of it is finite.
template <class Element>
bool pack_grad_out(const BackwardParams& params, const RowBlock& block, float* target) {
  const std::int64_t padded = padded_dim(params.call.head_dim_v);
  const auto* source = row_of<Element>(params.grad_out, params.grad_out_strides, block.batch_idx,
                                       block.head_idx, block.q_begin);
  bool all_finite = true;
  for (std::int64_t row = 0; row < kBlockM; ++row) {
    float* numbers = target + row * row_stride(padded);
    if (row < block.num_rows && !is_blind(lse_of(params, block, row))) {
      decode_strided_row<Element>(source + row * params.grad_out_strides.row,
                                  params.grad_out_dim_stride, params.call.head_dim_v, padded,
                                  numbers);
      all_finite &= is_finite(numbers, padded);
    } else {
      clear(numbers, padded);
    }
  }
  return all_finite;
}

GUIDE_INLINE std::int64_t flow_offset(const FlowStrides& strides, const RowBlock& block,
                                      std::int64_t channel, std::int64_t row) {
  return block.batch_idx * strides.batch + channel * strides.channel +
         block.head_idx * strides.head + (block.q_begin + row) * strides.row;
}

// What reached influence_out: target[row][channel], likewise.
inline void pack_grad_flow(const BackwardParams& params, const RowBlock& block, float* target) {
  const std::int64_t channels = params.call.channels;
  clear(target, kBlockM * channels);
  for (std::int64_t row = 0; row < block.num_rows; ++row) {
    if (is_blind(lse_of(params, block, row))) continue;
    for (std::int64_t channel = 0; channel < channels; ++channel) {
      target[row * channels + channel] = params.grad_influence_out[flow_offset(
          params.grad_influence_out_strides, block, channel, row)];
    }
  }
}

// What the rows of a block see of the keys of a task.
inline void fill_view(const BackwardParams& params, const KeyBlock& keys, const RowBlock& block,
                      View& view) {
  const std::int64_t position = position_of(params.call, block.batch_idx, block.q_begin);
  const auto within = [&](std::int64_t k_idx) {
    return max_of(0, min_of(k_idx - keys.k_begin, keys.num_keys));
  };
  for (std::int64_t tile = 0; tile < kBlockM / kTileRows; ++tile) {
    KeyRange any{keys.num_keys, 0}, all{0, keys.num_keys};
    for (std::int64_t row = tile * kTileRows; row < (tile + 1) * kTileRows; ++row) {
      KeyRange seen{0, 0};
      if (row < block.num_rows && !is_blind(lse_of(params, block, row))) {
        const KeyRange visible = visible_keys(params.call, position + row);
        seen = {within(visible.begin), within(visible.end)};
      }
      view.begin[row] = static_cast<std::int32_t>(seen.begin);
      view.end[row] = static_cast<std::int32_t>(seen.end);
      all = intersection(all, seen);
      if (seen.begin >= seen.end) continue;
      any = {min_of(any.begin, seen.begin), max_of(any.end, seen.end)};
    }
    view.any[tile] = any;
    view.all[tile] = all;
  }
}

// Rows of a block that may see a key of each tile of keys, whole tiles of rows.
inline void fill_row_ranges(const View& view, std::int64_t padded_keys, RowRange* rows_of_tile) {
  for (std::int64_t k = 0; k < padded_keys; k += kTileRows) {
    RowRange range{kBlockM, 0};
    for (std::int64_t tile = 0; tile < kBlockM / kTileRows; ++tile) {
      const KeyRange seen = view.any[tile];
      if (seen.begin >= k + kTileRows || seen.end <= k || seen.begin >= seen.end) continue;
      range = {min_of(range.begin, tile * kTileRows), max_of(range.end, (tile + 1) * kTileRows)};
    }
    rows_of_tile[k / kTileRows] = range;
  }
}

}  // namespace backward
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
