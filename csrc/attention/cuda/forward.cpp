// SPDX-License-Identifier: MIT
#include "forward.h"

#include "alignment.h"

namespace guide::cuda {

cudaError_t forward(const AttentionParams& params, const Device& device, cudaStream_t stream) {
  if (params.batch == 0 || params.num_heads == 0 || params.seqlen_q == 0) return cudaSuccess;
  ForwardParams pass{};
  pass.attention = params;
  pass.factors = score_factors(params.scale, params.softcap, kBitsPerNat);
  pass.influence_out_batch_stride = params.channels * params.num_heads * params.seqlen_q;
  pass.query_is_aligned = is_aligned(params.query, params.query_strides, params.head_dim);
  pass.key_is_aligned = is_aligned(params.key, params.key_strides, params.head_dim);
  pass.value_is_aligned = is_aligned(params.value, params.value_strides, params.head_dim_v);
  pass.out_is_aligned = is_aligned(params.out, params.out_strides, params.head_dim_v);

  // Each pass is a call of its own with up to kMaxChannels channels.
  std::int64_t channels_left = params.channels;
  for (;;) {
    AttentionParams& attention = pass.attention;
    attention.channels = channels_left < kMaxChannels ? channels_left : kMaxChannels;
    const Choice choice = choose(attention, device);
    if (choice.kernel == nullptr) return cudaErrorInvalidValue;
    const cudaError_t error = choice.launch(pass, stream);
    channels_left -= attention.channels;
    if (error != cudaSuccess || channels_left == 0) return error;
    attention.influence += kMaxChannels * attention.influence_channel_stride;
    attention.influence_out += kMaxChannels * attention.num_heads * attention.seqlen_q;
  }
}

}  // namespace guide::cuda
