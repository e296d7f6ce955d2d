// SPDX-License-Identifier: MIT
#include "forward.h"

#include "forward_params.h"
#include "sm80/launch.h"

namespace guide::cuda {

namespace {

constexpr std::int64_t kCopyBytes = 16;
constexpr std::int64_t kElementBytes = 2;

// Whether every row of a 16-bit tensor starts at a multiple of 16 bytes and is one in length.
bool is_aligned(const void* tensor, const RowStrides& strides, std::int64_t row_elements) {
  constexpr std::int64_t kElements = kCopyBytes / kElementBytes;
  return reinterpret_cast<std::uintptr_t>(tensor) % kCopyBytes == 0 &&
         strides.batch % kElements == 0 && strides.head % kElements == 0 &&
         strides.row % kElements == 0 && row_elements % kElements == 0;
}

sm80::Extras extras_of(const ForwardParams& params) {
  if (params.attention.attn_bias != nullptr) return sm80::Extras::kDense;
  const bool is_aligned =
      params.query_is_aligned && params.key_is_aligned && params.value_is_aligned;
  if (params.attention.channels > sm80::kMaxFastChannels || !is_aligned)
    return sm80::Extras::kGeneral;
  return static_cast<sm80::Extras>(params.attention.channels);
}

}  // namespace

bool has_kernel(const AttentionParams& params) {
  // Positions within a head and the number of thread blocks are 32-bit integers.
  constexpr std::int64_t kMaxLength = std::int64_t{1} << 30;
  constexpr std::int64_t kSmallestBlock = 64;  // queries
  const auto num_blocks = [](std::int64_t length) {
    return (length + kSmallestBlock - 1) / kSmallestBlock;
  };
  return (params.element_type == ElementType::kBFloat16 ||
          params.element_type == ElementType::kFloat16) &&
         params.head_dim <= sm80::kMaxHeadDim && params.head_dim_v <= sm80::kMaxHeadDim &&
         params.seqlen_q <= kMaxLength && params.seqlen_k <= kMaxLength &&
         params.batch <= kMaxLength && params.num_heads <= kMaxLength &&
         static_cast<double>(num_blocks(params.seqlen_q)) * static_cast<double>(params.num_heads) *
                 static_cast<double>(params.batch) <
             2147483648.0;
}

cudaError_t forward(const AttentionParams& params, cudaStream_t stream) {
  if (params.batch == 0 || params.num_heads == 0 || params.seqlen_q == 0) return cudaSuccess;
  ForwardParams pass{};
  pass.attention = params;
  pass.factors = score_factors(params.scale, params.softcap, kBitsPerNat);
  pass.influence_out_batch_stride = params.channels * params.num_heads * params.seqlen_q;
  pass.query_is_aligned = is_aligned(params.query, params.query_strides, params.head_dim);
  pass.key_is_aligned = is_aligned(params.key, params.key_strides, params.head_dim);
  pass.value_is_aligned = is_aligned(params.value, params.value_strides, params.head_dim_v);
  pass.out_is_aligned = is_aligned(params.out, params.out_strides, params.head_dim_v);

  std::int64_t channels_left = params.channels;
  for (;;) {
    AttentionParams& attention = pass.attention;
    attention.channels = channels_left < kMaxChannels ? channels_left : kMaxChannels;
    const cudaError_t error = sm80::launch(pass, extras_of(pass), stream);
    channels_left -= attention.channels;
    if (error != cudaSuccess || channels_left == 0) return error;
    attention.influence += kMaxChannels * attention.influence_channel_stride;
    attention.influence_out += kMaxChannels * attention.num_heads * attention.seqlen_q;
  }
}

}  // namespace guide::cuda
