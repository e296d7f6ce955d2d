// SPDX-License-Identifier: MIT
// Between the rows of the tensors and those of a tile: biases come in, results go out.
#pragma once

#include "elements-inl.h"
#include "math-inl.h"
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

template <class Math>
GUIDE_INLINE float in_unit_of(float nats) {
  return bias_in_unit<Math>(broadcast(nats), Math::kUnit)[0];
}

// The bias of one head on the keys of a block, in the unit of `Math`; zeros without key_bias, so
// that no bias and a bias of 0 run the same code and give the same bits. True if it hides a key.
template <class Math>
bool pack_key_bias(const AttentionParams& params, std::int64_t batch_idx, std::int64_t head_idx,
                   std::int64_t k_begin, std::int64_t num_keys, float* target) {
  if (params.key_bias == nullptr) {
    for (std::int64_t k = 0; k < num_keys; ++k) target[k] = 0.f;
    return false;
  }
  const float* source = params.key_bias + batch_idx * params.key_bias_batch_stride +
                        head_idx * params.key_bias_head_stride +
                        k_begin * params.key_bias_key_stride;
  const std::int64_t stride = params.key_bias_key_stride;
  for (std::int64_t k = 0; k < num_keys; ++k) target[k] = source[k * stride];
  for (std::int64_t k = num_keys; k < round_up(num_keys, kLanes); ++k) target[k] = 0.f;
  VecI hides{};
  for (std::int64_t k = 0; k < num_keys; k += kLanes) {
    const VecF bias = bias_in_unit<Math>(load(target + k), Math::kUnit);
    hides |= bias == broadcast(-kInfinity);
    store(target + k, bias);
  }
  return any(hides);
}

// kLanes numbers of attn_bias in nats: `count` of them from `index` on, `stride` apart, and zeros.
GUIDE_INLINE VecF load_biases(const AttentionParams& params, std::int64_t index,
                              std::int64_t count) {
  const std::int64_t stride = params.attn_bias_key_stride;
  if (stride == 1 && count >= kLanes) {
    switch (params.attn_bias_type) {
      case ElementType::kFloat32:
        return load(static_cast<const float*>(params.attn_bias) + index);
      case ElementType::kBFloat16:
        return load_elements<BFloat16>(static_cast<const std::uint16_t*>(params.attn_bias) + index);
      case ElementType::kFloat16:
        return load_elements<Float16>(static_cast<const std::uint16_t*>(params.attn_bias) + index);
      case ElementType::kBool: {
        std::uint8_t __attribute__((vector_size(kLanes))) visible;
        __builtin_memcpy(&visible, static_cast<const bool*>(params.attn_bias) + index, kLanes);
        return select(__builtin_convertvector(visible, VecI) != 0, broadcast(0.f),
                      broadcast(-kInfinity));
      }
      default:
        break;
    }
  }
  float biases[kLanes] = {};
  for (std::int64_t i = 0; i < min_of(count, kLanes); ++i) {
    biases[i] = decode_any(params.attn_bias, params.attn_bias_type, index + i * stride);
  }
  return load(biases);
}

// key_bias + attn_bias of one row on the keys of a block, in the unit of `Math`. A -inf of
// attn_bias hides a key whatever its key_bias. `key_bias` is that of the row's head, and both
// arrays hold whole vectors.
template <class Math>
void pack_row_addends(const AttentionParams& params, std::int64_t batch_idx, std::int64_t head_idx,
                      std::int64_t q_idx, std::int64_t k_begin, std::int64_t num_keys,
                      const float* key_bias, float* addends) {
  const std::int64_t first =
      batch_idx * params.attn_bias_batch_stride + head_idx * params.attn_bias_head_stride +
      q_idx * params.attn_bias_row_stride + k_begin * params.attn_bias_key_stride;
  for (std::int64_t k = 0; k < num_keys; k += kLanes) {
    VecF sum = load(key_bias + k);
    if (params.attn_bias != nullptr) {
      const VecF nats = load_biases(params, first + k * params.attn_bias_key_stride, num_keys - k);
      const VecF hidden = broadcast(-kInfinity);
      sum = select(nats == hidden, hidden, sum + bias_in_unit<Math>(nats, Math::kUnit));
    }
    store(addends + k, sum);
  }
}

// The same for every row of a tile: addends[k][row].
template <class Math>
void pack_addends(const AttentionParams& params, std::int64_t rows, std::int64_t batch_idx,
                  const TileRows& tile, std::int64_t k_begin, std::int64_t num_keys,
                  float* key_bias, float* addends) {
  std::int64_t packed_head = -1;
  for (std::int64_t first_row = 0; first_row < rows; first_row += kLanes) {
    float row_addends[kLanes][kBlockN];
    for (int lane = 0; lane < kLanes; ++lane) {
      const std::int64_t head_idx = tile.head_idx[first_row + lane];
      const std::int64_t bias_head = params.key_bias_head_stride == 0 ? 0 : head_idx;
      if (packed_head != bias_head) {
        pack_key_bias<Math>(params, batch_idx, bias_head, k_begin, num_keys, key_bias);
        packed_head = bias_head;
      }
      pack_row_addends<Math>(params, batch_idx, head_idx, tile.q_idx[first_row + lane], k_begin,
                             num_keys, key_bias, row_addends[lane]);
    }
    for (std::int64_t k = 0; k < num_keys; k += kLanes) {
      VecF numbers[kLanes];
      for (int i = 0; i < kLanes; ++i) numbers[i] = load(row_addends[i] + k);
      transpose(numbers);
      for (int i = 0; i < kLanes; ++i) store(addends + (k + i) * rows + first_row, numbers[i]);
    }
  }
}

// out[d][row] * factors[row] to the rows of `out`. A single row may be followed by anything up to
// a whole vector; otherwise `rows` are whole vectors.
template <class Element>
void write_out(const AttentionParams& params, std::int64_t rows, const Group& group,
               const TileRows& tile, const float* sums, const float* factors) {
  const auto out = [&](std::int64_t row) {
    return static_cast<typename Element::Storage*>(params.out) +
           group.batch_idx * params.out_strides.batch +
           tile.head_idx[row] * params.out_strides.head + tile.q_idx[row] * params.out_strides.row;
  };
  const std::int64_t head_dim_v = params.head_dim_v;
  if (rows == 1) {
    for (std::int64_t d = 0; d < head_dim_v; d += kLanes) {
      store_elements<Element>(out(0) + d, head_dim_v - d, load(sums + d) * factors[0]);
    }
    return;
  }
  for (std::int64_t first_row = 0; first_row < tile.num_rows; first_row += kLanes) {
    const VecF factor = load(factors + first_row);
    const std::int64_t num_rows = min_of(kLanes, tile.num_rows - first_row);
    typename Element::Storage* targets[kLanes];
    for (std::int64_t row = 0; row < num_rows; ++row) targets[row] = out(first_row + row);
    for (std::int64_t d = 0; d < head_dim_v; d += kLanes) {
      VecF numbers[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const std::int64_t dim = min_of(d + i, head_dim_v - 1);
        numbers[i] = load(sums + dim * rows + first_row) * factor;
      }
      transpose(numbers);
      for (std::int64_t row = 0; row < num_rows; ++row) {
        store_elements<Element>(targets[row] + d, head_dim_v - d, numbers[row]);
      }
    }
  }
}

// Divides by the sums, lets the sinks join them, and writes the rows of a tile, whose state is in
// the unit of `Math`.
template <class Element, class Math>
void write_results(const AttentionParams& params, std::int64_t rows, const Group& group,
                   const TileRows& tile, const TileState& state) {
  constexpr auto kNats = static_cast<float>(1 / Math::kUnit);
  float factors[kMaxRows] = {};
  for (std::int64_t row = 0; row < tile.num_rows; ++row) {
    const std::int64_t head_idx = tile.head_idx[row];
    const std::int64_t q_idx = tile.q_idx[row];
    float row_max = state.row_max[row];
    float row_sum = state.row_sum[row];
    const bool sees_nothing = row_sum == 0.f;  // false for NaN; the largest weight is 1
    float factor = 1.f;
    if (params.sinks != nullptr && !sees_nothing) {
      const float sink = in_unit_of<Math>(
          decode_any(params.sinks, params.sinks_type, head_idx * params.sinks_stride));
      const float new_max = sink > row_max ? sink : row_max;
      factor = __builtin_expf((row_max - new_max) * kNats);
      row_sum = row_sum * factor + __builtin_expf((sink - new_max) * kNats);
      row_max = new_max;
    }
    factor = sees_nothing ? 0.f : factor / row_sum;

    const std::int64_t row_idx =
        (group.batch_idx * params.num_heads + head_idx) * params.seqlen_q + q_idx;
    params.lse[row_idx] = sees_nothing ? -kInfinity : row_max * kNats + __builtin_logf(row_sum);
    for (std::int64_t channel = 0; channel < params.channels; ++channel) {
      const std::int64_t plane = group.batch_idx * params.channels + channel;
      params.influence_out[(plane * params.num_heads + head_idx) * params.seqlen_q + q_idx] =
          state.influence[channel * rows + row] * factor;
    }
    factors[row] = factor;
  }
  write_out<Element>(params, rows, group, tile, state.out, factors);
}

}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
