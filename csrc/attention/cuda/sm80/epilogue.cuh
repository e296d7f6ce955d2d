// SPDX-License-Identifier: MIT
// From the state of the rows to out, influence_out and lse.
#pragma once

#include "softmax.cuh"

namespace guide::cuda::sm80 {

GUIDE_DEVICE float load_sink(const AttentionParams& params, int head_idx) {
  const std::int64_t offset = head_idx * params.sinks_stride;
  switch (params.sinks_type) {
    case ElementType::kBFloat16:
      return ptx::from_bfloat16(
          ptx::load_global(static_cast<const std::uint16_t*>(params.sinks) + offset));
    case ElementType::kFloat16:
      return ptx::from_float16(
          ptx::load_global(static_cast<const std::uint16_t*>(params.sinks) + offset));
    case ElementType::kFloat64:
      return bias_from_double(ptx::load_global(static_cast<const double*>(params.sinks) + offset));
    default:
      return ptx::load_global(static_cast<const float*>(params.sinks) + offset);
  }
}

// Divides the sums of every row by its denominator and writes influence_out and lse. The first of
// the four threads of a row writes.
template <class Traits>
GUIDE_DEVICE void finish_rows(const ForwardParams& launch, int batch_idx, int head_idx, int q_begin,
                              RowState<Traits>& state, OutTiles<Traits>& out) {
  const AttentionParams& params = launch.attention;
  const float sink = params.sinks == nullptr
                         ? Math::negative_infinity()
                         : bias_in_unit<Math>(load_sink(params, head_idx), kBitsPerNat);
  const int lane = lane_index();
  const std::int64_t head_rows = (batch_idx * params.num_heads + head_idx) * params.seqlen_q;
#pragma unroll
  for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float row_max = state.row_max[row_tile][half];
      const float row_sum = sum_of_quad(state.row_sum[row_tile][half]);
      const float total_max = fmaxf(row_max, sink);
      const float row_factor = rescale_factor<Math>(row_max, total_max);
      const float total = fmaf(row_sum, row_factor, rescale_factor<Math>(sink, total_max));
      // A sum that is NaN is not a row without keys: it is written out.
      const bool sees_nothing = row_max == Math::negative_infinity() && row_sum == 0.f;
      const float scale = sees_nothing ? 0.f : row_factor / total;

#pragma unroll
      for (int i = 0; i < Traits::kHeadDim / 8; ++i) {
        out[row_tile][i][half * 2] *= scale;
        out[row_tile][i][half * 2 + 1] *= scale;
      }
      const int q_idx = q_begin + row_tile * 16 + half * 8 + lane / 4;
      const bool writes = lane % 4 == 0 && q_idx < params.seqlen_q;
      if (writes) {
        const float lse =
            sees_nothing ? Math::negative_infinity() : (total_max + log2f(total)) * kLn2;
        ptx::store_global(params.lse + head_rows + q_idx, lse);
      }
#pragma unroll
      for (int channel = 0; channel < Traits::kChannels; ++channel) {
        const float sum = sum_of_quad(state.influence[channel][row_tile][half]);
        if (writes && channel < KeyVectors<Traits>::channels(params)) {
          ptx::store_global(params.influence_out + batch_idx * launch.influence_out_batch_stride +
                                (channel * params.num_heads + head_idx) * params.seqlen_q + q_idx,
                            sum * scale);
        }
      }
    }
  }
}

// Writes the rows of this warp through shared memory, 16 bytes at a time where out allows it. The
// tile is the block's own; every warp uses only its rows of it.
template <class Traits>
GUIDE_DEVICE void write_out(const ForwardParams& launch, std::uint32_t tile, int batch_idx,
                            int head_idx, int q_begin, const OutTiles<Traits>& out) {
  using Element = typename Traits::Element;
  constexpr int kHeadDim = Traits::kHeadDim;
  constexpr int kRows = Traits::kRowTiles * 16;
  constexpr int kChunks = kHeadDim / kChunkElements;
  const AttentionParams& params = launch.attention;
  const int lane = lane_index();
  const int warp_row = warp_index() * kRows;
  const ChunkAddress<kHeadDim> own_row(tile, warp_row + lane / 4, 0);
#pragma unroll
  for (int row_tile = 0; row_tile < Traits::kRowTiles; ++row_tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kHeadDim / 8; ++i) {
        ptx::store_shared(
            own_row.at(row_tile * 16 + half * 8, i) + lane % 4 * 4,
            ptx::pack<Element>(out[row_tile][i][half * 2], out[row_tile][i][half * 2 + 1]));
      }
    }
  }
  __syncwarp();
  std::uint16_t* const head = static_cast<std::uint16_t*>(params.out) +
                              batch_idx * params.out_strides.batch +
                              head_idx * params.out_strides.head;
#pragma unroll 1
  for (int index = lane; index < kRows * kChunks; index += 32) {
    const int row = index / kChunks, chunk = index % kChunks;
    const int q_idx = q_begin + row;
    const int elements = static_cast<int>(params.head_dim_v) - chunk * kChunkElements;
    if (q_idx >= params.seqlen_q || elements <= 0) continue;
    const ChunkAddress<kHeadDim> source(tile, warp_row + row, chunk);
    const uint4 words = ptx::load_shared_chunk(source.at(0, 0));
    std::uint16_t* const target = head + q_idx * params.out_strides.row + chunk * kChunkElements;
    if (launch.out_is_aligned) {
      ptx::store_global(reinterpret_cast<uint4*>(target), words);
      continue;
    }
    const std::uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int e = 0; e < kChunkElements; ++e) {
      if (e < elements) {
        ptx::store_global(target + e, static_cast<std::uint16_t>(word[e / 2] >> (16 * (e % 2))));
      }
    }
  }
}

}  // namespace guide::cuda::sm80
