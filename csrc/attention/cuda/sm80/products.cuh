// SPDX-License-Identifier: MIT
// The two matrix products of a block: query @ key^T and prob @ value.
//
// Sums are held as the tensor cores leave them. With g = lane / 4 and t = lane % 4, tile j of 8
// columns gives a thread the elements [0], [1] of row g and [2], [3] of row g + 8, in the columns
// 8 j + 2 t and 8 j + 2 t + 1.
#pragma once

#include "tile.cuh"
#include "traits.h"

namespace guide::cuda::sm80 {

template <class Traits>
using DotTiles = float[Traits::kRowTiles][Traits::kBlockN / 8][4];
template <class Traits>
using OutTiles = float[Traits::kRowTiles][Traits::kHeadDim / 8][4];
// One 16x16 piece of the queries for every 16 elements of the head.
template <class Traits>
using QueryPieces = std::uint32_t[Traits::kRowTiles][Traits::kHeadDim / 16][4];

// Where this lane points ldmatrix at for the queries of its warp, and for the keys of a tile.
template <class Traits>
GUIDE_DEVICE ChunkAddress<Traits::kHeadDim> query_address(std::uint32_t tile) {
  const int lane = lane_index();
  return {tile, warp_index() * Traits::kRowTiles * 16 + lane % 16, lane / 16};
}

template <class Traits>
GUIDE_DEVICE void load_query(std::uint32_t tile, QueryPieces<Traits>& pieces) {
  const ChunkAddress<Traits::kHeadDim> address = query_address<Traits>(tile);
#pragma unroll
  for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
#pragma unroll
    for (int step = 0; step < Traits::kHeadDim / 16; ++step) {
      ptx::load_matrices(pieces[row_tile][step], address.at(row_tile * 16, step * 2));
    }
  }
}

// dots = query @ key^T for the rows of this warp. The queries come from `pieces`, or from their
// tile where they do not stay in registers.
template <class Traits>
GUIDE_DEVICE void multiply_keys(std::uint32_t query_tile, const QueryPieces<Traits>& pieces,
                                std::uint32_t key_tile, DotTiles<Traits>& dots) {
  const int lane = lane_index();
  const ChunkAddress<Traits::kHeadDim> query_source = query_address<Traits>(query_tile);
  const ChunkAddress<Traits::kHeadDim> key_source(key_tile, lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
  for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
#pragma unroll
    for (int j = 0; j < Traits::kBlockN / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) dots[row_tile][j][e] = 0.f;
    }
  }
#pragma unroll
  for (int step = 0; step < Traits::kHeadDim / 16; ++step) {
    std::uint32_t query[Traits::kRowTiles][4];
#pragma unroll
    for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
      if constexpr (Traits::kQueryInRegisters) {
#pragma unroll
        for (int i = 0; i < 4; ++i) query[row_tile][i] = pieces[row_tile][step][i];
      } else {
        ptx::load_matrices(query[row_tile], query_source.at(row_tile * 16, step * 2));
      }
    }
#pragma unroll
    for (int j = 0; j < Traits::kBlockN / 8; j += 2) {
      std::uint32_t key[4];
      ptx::load_matrices(key, key_source.at(j * 8, step * 2));
#pragma unroll
      for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
        ptx::mma_m16n8k16<typename Traits::Element>(dots[row_tile][j], query[row_tile], key[0],
                                                    key[1]);
        ptx::mma_m16n8k16<typename Traits::Element>(dots[row_tile][j + 1], query[row_tile], key[2],
                                                    key[3]);
      }
    }
  }
}

// out += prob @ value. The sums of the first product lie as the second wants its left operand.
template <class Traits>
GUIDE_DEVICE void multiply_values(const DotTiles<Traits>& prob, std::uint32_t value_tile,
                                  OutTiles<Traits>& out) {
  using Element = typename Traits::Element;
  const ChunkAddress<Traits::kHeadDim> source(value_tile, lane_index() % 16, lane_index() / 16);
#pragma unroll
  for (int step = 0; step < Traits::kBlockN / 16; ++step) {
    std::uint32_t weights[Traits::kRowTiles][4];
#pragma unroll
    for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
      const float (&left)[4] = prob[row_tile][2 * step];
      const float (&right)[4] = prob[row_tile][2 * step + 1];
      weights[row_tile][0] = ptx::pack<Element>(left[0], left[1]);
      weights[row_tile][1] = ptx::pack<Element>(left[2], left[3]);
      weights[row_tile][2] = ptx::pack<Element>(right[0], right[1]);
      weights[row_tile][3] = ptx::pack<Element>(right[2], right[3]);
    }
#pragma unroll
    for (int i = 0; i < Traits::kHeadDim / 8; i += 2) {
      std::uint32_t value[4];
      ptx::load_matrices_transposed(value, source.at(step * 16, i));
#pragma unroll
      for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
        ptx::mma_m16n8k16<Element>(out[row_tile][i], weights[row_tile], value[0], value[1]);
        ptx::mma_m16n8k16<Element>(out[row_tile][i + 1], weights[row_tile], value[2], value[3]);
      }
    }
  }
}

}  // namespace guide::cuda::sm80
