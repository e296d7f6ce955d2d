// SPDX-License-Identifier: MIT
// Queries, keys and values from tensors with strides to the packed arrays of a task.
#pragma once

#include "amx_pack-inl.h"
#include "plan-inl.h"
#include "tile-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace prefill {

// Asks for the queries of a tile.
template <class Element>
void prefetch_queries(const AttentionParams& params, const Group& group, const TileRows& tile) {
  for (std::int64_t row = 0; row < tile.num_rows; ++row) {
    prefetch_row<Element>(row_of<Element>(params.query, params.query_strides, group.batch_idx,
                                          tile.head_idx[row], tile.q_idx[row]),
                          params.head_dim);
  }
}

// query_t[word][row] of one tile.
template <class Element>
void pack_queries(const AttentionParams& params, std::int64_t rows, const Group& group,
                  const TileRows& tile, float* query_t) {
  const auto query = [&](std::int64_t row) {
    return row_of<Element>(params.query, params.query_strides, group.batch_idx, tile.head_idx[row],
                           tile.q_idx[row]);
  };
#if !defined(__AVX512F__)
  if constexpr (kHasTiles<Element>) {
    return pack_tile_queries<Element>(query, params.head_dim, rows, query_t);
  }
#endif
  constexpr std::int64_t kNumbers = Words<Element>::kNumbers;
  const std::int64_t num_words = row_words<Element>(params.head_dim);
  for (std::int64_t row = 0; row < rows; row += kLanes) {
    for (std::int64_t word = 0; word < num_words; word += kLanes) {
      const auto mask = number_mask<Element>(params.head_dim - word * kNumbers);
      VecF words[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        words[lane] = load_words<Element>(query(row + lane) + word * kNumbers, mask);
      }
      transpose(words);
      const std::int64_t present = min_of(kLanes, num_words - word);
      for (std::int64_t i = 0; i < present; ++i) store(query_t + (word + i) * rows + row, words[i]);
    }
  }
}

// Whether rows are words as they lie, near enough to each other to share pages and cache sets.
template <class Element>
bool is_packed(const typename Element::Storage* first, std::int64_t stride,
               std::int64_t num_elements) {
  constexpr std::int64_t kNumbers = Words<Element>::kNumbers;
  return kNumbers * sizeof(typename Element::Storage) == sizeof(float) &&
         num_elements % kNumbers == 0 && stride % kNumbers == 0 && stride >= 0 &&
         stride <= 2 * num_elements && reinterpret_cast<std::uintptr_t>(first) % sizeof(float) == 0;
}

// A row of K: words, then zeros.
template <class Element>
GUIDE_INLINE void pack_key_row(const typename Element::Storage* source, std::int64_t head_dim,
                               float* target) {
  if constexpr (Words<Element>::kNumbers == 1) {
    decode_row<Element>(source, head_dim, head_dim, target);
  } else {
    for (std::int64_t word = head_dim / 2; word < row_words<Element>(head_dim); ++word) {
      target[word] = 0.f;
    }
    __builtin_memcpy(target, source, static_cast<std::size_t>(head_dim) * sizeof(*source));
  }
}

// Keys [k_begin, k_begin + num_keys) of K, in place where they lie as the tiles read them.
template <class Element>
void pack_key_rows(const AttentionParams& params, const Group& group, std::int64_t k_begin,
                   std::int64_t num_keys, float* target, KeyBlock& block) {
  const auto* first =
      row_of<Element>(params.key, params.key_strides, group.batch_idx, group.kv_head_idx, k_begin);
  const std::int64_t stride = params.key_strides.row;
  // The last micro-tile reads on to a multiple of its keys.
  const std::int64_t read_keys = round_up(num_keys, kHasTiles<Element> ? kPairSide : kDotKeys);
  const std::int64_t num_words = row_words<Element>(params.head_dim);
  if (is_packed<Element>(first, stride, params.head_dim) &&
      num_words * Words<Element>::kNumbers == params.head_dim &&
      k_begin + read_keys <= params.seqlen_k) {
    block.key = reinterpret_cast<const float*>(first);
    block.key_stride = stride / Words<Element>::kNumbers;
    return;
  }
  for (std::int64_t k = 0; k < num_keys; ++k) {
    pack_key_row<Element>(first + k * stride, params.head_dim, target + k * num_words);
  }
  for (std::int64_t i = num_keys * num_words; i < read_keys * num_words; ++i) target[i] = 0.f;
  block.key = target;
  block.key_stride = num_words;
}

// V strip by strip of kLanes dimensions: target[strip][word of keys][kLanes].
template <class Element>
void pack_strips(const typename Element::Storage* first, std::int64_t stride,
                 std::int64_t head_dim_v, std::int64_t num_keys, float* target,
                 std::int64_t strip_stride) {
#if defined(__AVX512F__)
  constexpr std::int64_t kNumbers = Words<Element>::kNumbers;
  constexpr std::int64_t kDims = kNumbers * kLanes;
  for (std::int64_t d = 0; d < head_dim_v; d += kDims) {
    const std::uint32_t mask = number_mask<Element>(head_dim_v - d);
    const bool has_next_strip = d + kLanes < head_dim_v;
    const auto* source = first + d;
    float* words = target + d / kLanes * strip_stride;
    for (std::int64_t k = 0; k < num_keys; k += kNumbers) {
      const VecF row = load_words<Element>(source, mask);
      if constexpr (kNumbers == 1) {
        store(words, row);
      } else {
        // A key without a partner is paired with zeros.
        const VecF partner = load_words<Element>(source + stride, k + 1 < num_keys ? mask : 0);
        store(words, Words<Element>::template pair_rows<false>(row, partner));
        if (has_next_strip) {
          store(words + strip_stride, Words<Element>::template pair_rows<true>(row, partner));
        }
      }
      source += kNumbers * stride;
      words += kLanes;
    }
  }
#else
  for (std::int64_t k = 0; k < num_keys; ++k) {
    for (std::int64_t d = 0; d < head_dim_v; d += kLanes) {
      store(target + d / kLanes * strip_stride + k * kLanes,
            load_elements<Element>(first + k * stride + d, head_dim_v - d));
    }
  }
#endif
}

// Keys [k_begin, k_begin + num_keys) of V: in place, or strip by strip of kLanes dimensions, so
// that a micro-tile reads on and on.
template <class Element>
void pack_value_rows(const AttentionParams& params, const Plan& plan, const Group& group,
                     std::int64_t k_begin, std::int64_t num_keys, float* target, KeyBlock& block) {
  constexpr std::int64_t kNumbers = Words<Element>::kNumbers;
  const auto* first = row_of<Element>(params.value, params.value_strides, group.batch_idx,
                                      group.kv_head_idx, k_begin);
  const std::int64_t stride = params.value_strides.row;
  if constexpr (kHasTiles<Element>) {
    pack_tile_values<Element>(first, stride, params.head_dim_v, num_keys, target, block);
    return;
  }
  if (kNumbers == 1 && plan.padded_head_dim_v == params.head_dim_v &&
      is_packed<Element>(first, stride, params.head_dim_v)) {
    block.value = reinterpret_cast<const float*>(first);
    block.value_stride = stride;
    block.value_strip_stride = kLanes;
    return;
  }
  block.value = target;
  block.value_stride = kLanes;
  block.value_strip_stride = kBlockN / kNumbers * kLanes + kStripPadding;
  pack_strips<Element>(first, stride, params.head_dim_v, num_keys, target,
                       block.value_strip_stride);
}

// Keys [k_begin, k_begin + num_keys) with their values and influence.
template <class Element>
KeyBlock pack_keys(const AttentionParams& params, const Plan& plan, const Group& group,
                   std::int64_t k_begin, std::int64_t num_keys, const Scratch& scratch) {
  KeyBlock block{};
  pack_key_rows<Element>(params, group, k_begin, num_keys, scratch.key, block);
  pack_value_rows<Element>(params, plan, group, k_begin, num_keys, scratch.value, block);
  for (std::int64_t channel = 0; channel < params.channels; ++channel) {
    const float* source = params.influence + group.batch_idx * params.influence_batch_stride +
                          channel * params.influence_channel_stride +
                          k_begin * params.influence_key_stride;
    float* target = scratch.influence + channel * kBlockN;
    for (std::int64_t k = 0; k < num_keys; ++k) {
      target[k] = source[k * params.influence_key_stride];
    }
    // A word of weights may hold one key more.
    if (num_keys < kBlockN) target[num_keys] = 0.f;
  }
  block.influence = scratch.influence;
  return block;
}

}  // namespace prefill
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
