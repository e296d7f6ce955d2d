// SPDX-License-Identifier: MIT
// The forward kernel for sm_80 and later: mma.sync tensor cores, ldmatrix, cp.async.
//
// A thread block takes kBlockM queries of one head and walks over the keys that any of them sees,
// kBlockN at a time. Keys and values of the next block travel while this one is computed; one
// barrier a block keeps the two stages apart. Masks, windows, the soft-cap and the position of the
// queries are run-time values behind branches that a whole warp takes together.
#pragma once

#include "dense_bias.cuh"
#include "epilogue.cuh"
#include "launch.h"
#include "visibility.cuh"

namespace guide::cuda::sm80 {

// Which queries a thread block works on. Neighbouring blocks share a head, so its keys stay in the
// second-level cache; late queries come first, as they see the most keys under a causal mask.
struct BlockIndex {
  int batch_idx;
  int head_idx;
  int q_begin;

  template <class Traits>
  static GUIDE_DEVICE BlockIndex of(const ForwardParams& launch) {
    const int block = static_cast<int>(blockIdx.x);
    const int head = block / launch.num_m_blocks;
    const int m_block = launch.num_m_blocks - 1 - block % launch.num_m_blocks;
    const int num_heads = static_cast<int>(launch.attention.num_heads);
    return {head / num_heads, head % num_heads, m_block * Traits::kBlockM};
  }
};

GUIDE_DEVICE Rows rows_of(const void* tensor, const RowStrides& strides, int batch_idx,
                          int head_idx, std::int64_t num_rows, std::int64_t num_elements,
                          bool is_aligned) {
  return {static_cast<const std::uint16_t*>(tensor) + batch_idx * strides.batch +
              head_idx * strides.head,
          strides.row, num_rows, static_cast<std::int32_t>(num_elements), is_aligned};
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kMinBlocks)
    forward_kernel(const __grid_constant__ ForwardParams launch)
#if GUIDE_KERNEL_BODIES
{
  const AttentionParams& params = launch.attention;
  const auto [batch_idx, head_idx, q_begin] = BlockIndex::of<Traits>(launch);
  const int kv_head_idx = head_idx / static_cast<int>(params.group_size);
  const int warp_q_begin = q_begin + warp_index() * Traits::kRowTiles * 16;
  const std::uint32_t shared = ptx::shared_memory();
  const std::uint32_t query_tile = shared + Traits::kQueryOffset;

  const Visibility<Traits> visibility(params, position_of(params, batch_idx, 0), q_begin);
  const int first_block = visibility.first_block();
  const int end_block = visibility.end_block();
  KeyVectors<Traits> vectors(params, batch_idx, head_idx, shared);
  const TileCopy<Traits, Traits::kBlockN> key_copy(rows_of(params.key, params.key_strides,
                                                           batch_idx, kv_head_idx, params.seqlen_k,
                                                           params.head_dim, launch.key_is_aligned));
  const TileCopy<Traits, Traits::kBlockN> value_copy(
      rows_of(params.value, params.value_strides, batch_idx, kv_head_idx, params.seqlen_k,
              params.head_dim_v, launch.value_is_aligned));
  const auto start_copies = [&](int block) {
    const std::uint32_t stage = shared + block % Traits::kStages * Traits::kStageBytes;
    key_copy.start(stage, block * Traits::kBlockN);
    value_copy.start(stage + Traits::kTileBytes, block * Traits::kBlockN);
    ptx::copy_async_commit();
  };

  QueryPieces<Traits> query;
  OutTiles<Traits> out;
#pragma unroll
  for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
#pragma unroll
    for (int i = 0; i < Traits::kHeadDim / 8; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) out[row_tile][i][e] = 0.f;
    }
  }
  RowState<Traits> state;

  if (first_block < end_block) {
    // Queries that move on to registers borrow the stage of the second block, which is filled after
    // the next barrier.
    const std::uint32_t borrowed =
        Traits::kQueryInRegisters
            ? shared + (first_block + 1) % Traits::kStages * Traits::kStageBytes
            : query_tile;
    const TileCopy<Traits, Traits::kBlockM> query_copy(
        rows_of(params.query, params.query_strides, batch_idx, head_idx, params.seqlen_q,
                params.head_dim, launch.query_is_aligned));
    query_copy.start(borrowed, q_begin);
    start_copies(first_block);
    vectors.load(params, first_block * Traits::kBlockN);
    vectors.store(first_block % Traits::kStages);
    if constexpr (Traits::kQueryInRegisters) {
      ptx::copy_async_wait<0>();
      __syncthreads();
      load_query<Traits>(borrowed, query);
    }
  }

#pragma unroll 1
  for (int block = first_block; block < end_block; ++block) {
    const int stage = block % Traits::kStages;
    const int k_begin = block * Traits::kBlockN;
    const std::uint32_t key_tile = shared + stage * Traits::kStageBytes;
    const std::uint32_t value_tile = key_tile + Traits::kTileBytes;
    // This thread's copies have landed; after the barrier everybody's have, and nobody reads the
    // other stage any more.
    ptx::copy_async_wait<0>();
    __syncthreads();
    const bool has_next = block + 1 < end_block;
    if (has_next) {
      start_copies(block + 1);
      vectors.load(params, k_begin + Traits::kBlockN);
    }

    DotTiles<Traits> scores;
    multiply_keys<Traits>(query_tile, query, key_tile, scores);
    if (params.softcap != 0.f) {
      add_key_bias<Traits, true>(vectors, stage, launch.factors, scores);
    } else {
      add_key_bias<Traits, false>(vectors, stage, launch.factors, scores);
    }
    if constexpr (Traits::kIsDense) {
      add_dense_bias<Traits>(params, batch_idx, head_idx, warp_q_begin, k_begin, scores);
    }
    if (visibility.is_partial(k_begin)) visibility.hide(k_begin, scores);

    float rescale_factors[Traits::kRowTiles][2];
    // Where no maximum grew every factor is exactly 1.
    if (raise_row_max<Traits>(vectors, stage, scores, state, rescale_factors)) {
      rescale<Traits>(rescale_factors, out);
    }
    weigh<Traits>(rescale_factors, scores, state);
#pragma unroll
    for (int channel = 0; channel < Traits::kChannels; ++channel) {
      if (channel < KeyVectors<Traits>::channels(params)) {
        add_influence<Traits>(vectors, stage, channel, scores, rescale_factors, state);
      }
    }
    multiply_values<Traits>(scores, value_tile, out);
    if (has_next) vectors.store((block + 1) % Traits::kStages);
  }

  finish_rows<Traits>(launch, batch_idx, head_idx, warp_q_begin, state, out);
  // Other warps may still read the tiles of the last block.
  __syncthreads();
  write_out<Traits>(launch, shared, batch_idx, head_idx, warp_q_begin, out);
}
#else
        ;
#endif

template <class Element, int kHeadDim, Extras kExtras>
cudaError_t launch_instance(const ForwardParams& params, cudaStream_t stream) {
  using Instance = Traits<Element, kHeadDim, kExtras>;
  const AttentionParams& attention = params.attention;
  ForwardParams launch = params;
  const std::int64_t num_m_blocks =
      (attention.seqlen_q + Instance::kBlockM - 1) / Instance::kBlockM;
  launch.num_m_blocks = static_cast<std::int32_t>(num_m_blocks);
  const dim3 grid(static_cast<unsigned>(num_m_blocks * attention.num_heads * attention.batch));
  return launch_kernel<forward_kernel<Instance>>(grid, Instance::kThreads, Instance::kSharedBytes,
                                                 stream, launch);
}

template <class Element, int kHeadDim>
cudaError_t launch_forward(const ForwardParams& params, Extras extras, cudaStream_t stream) {
  switch (extras) {
    case Extras::kNone:
      return launch_instance<Element, kHeadDim, Extras::kNone>(params, stream);
    case Extras::kOneChannel:
      return launch_instance<Element, kHeadDim, Extras::kOneChannel>(params, stream);
    case Extras::kTwoChannels:
      return launch_instance<Element, kHeadDim, Extras::kTwoChannels>(params, stream);
    default:
      return launch_instance<Element, kHeadDim, Extras::kGeneral>(params, stream);
  }
}

template <class Element, int kHeadDim>
cudaError_t launch_dense_forward(const ForwardParams& params, cudaStream_t stream) {
  return launch_instance<Element, kHeadDim, Extras::kDense>(params, stream);
}

}  // namespace guide::cuda::sm80
