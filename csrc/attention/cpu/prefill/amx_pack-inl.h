// SPDX-License-Identifier: MIT
// Packed operands of the products in amx_products-inl.h, where they are not those of pack-inl.h.
#pragma once

#include "plan-inl.h"
#include "tile-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace prefill {

// query_t[word][row] of one tile, whole tiles of words; `query(row)` is a row of Q.
template <class Element, class Query>
void pack_tile_queries(const Query& query, std::int64_t head_dim, std::int64_t rows,
                       float* query_t) {
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto* source = query(row);
    for (std::int64_t word = 0; word < row_words<Element>(head_dim); ++word) {
      typename Element::Storage pair[2] = {};
      for (int i = 0; i < 2; ++i) {
        if (2 * word + i < head_dim) pair[i] = source[2 * word + i];
      }
      __builtin_memcpy(query_t + word * rows + row, pair, sizeof(pair));
    }
  }
}

// V transposed, value_t[dimension][word of keys], and zeros up to a whole tile of dimensions.
template <class Element>
void pack_tile_values(const typename Element::Storage* first, std::int64_t stride,
                      std::int64_t head_dim_v, std::int64_t num_keys, float* target,
                      KeyBlock& block) {
  const std::int64_t padded_dims = round_up(head_dim_v, kTileSide);
  block.value = target;
  block.value_stride = kValueStride;
  block.cut_columns = target + padded_dims * kValueStride;
#if defined(__AVX512F__)
  for (std::int64_t d = 0; d < head_dim_v; d += kPairSide) {
    const std::uint32_t mask = number_mask<Element>(head_dim_v - d);
    for (std::int64_t k = 0; k < num_keys; k += kPairSide) {
      VecF low[kLanes], high[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const std::int64_t key = k + 2 * i;
        // A masked load touches nothing where the mask has nothing.
        const auto row = [&](std::int64_t at) {
          return load_words<Element>(first + min_of(at, num_keys - 1) * stride + d,
                                     at < num_keys ? mask : 0);
        };
        low[i] = Words<Element>::template pair_rows<false>(row(key), row(key + 1));
        high[i] = Words<Element>::template pair_rows<true>(row(key), row(key + 1));
      }
      transpose(low);
      transpose(high);
      for (int lane = 0; lane < kLanes; ++lane) {
        store(target + (d + lane) * kValueStride + k / 2, low[lane]);
        if (d + kTileSide < padded_dims) {
          store(target + (d + kTileSide + lane) * kValueStride + k / 2, high[lane]);
        }
      }
    }
  }
#else
  for (std::int64_t d = 0; d < padded_dims; ++d) {
    for (std::int64_t k = 0; k < num_keys; k += 2) {
      typename Element::Storage pair[2] = {};
      for (int i = 0; i < 2; ++i) {
        if (d < head_dim_v && k + i < num_keys) pair[i] = first[(k + i) * stride + d];
      }
      __builtin_memcpy(target + d * kValueStride + k / 2, pair, sizeof(pair));
    }
  }
#endif
}

}  // namespace prefill
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
