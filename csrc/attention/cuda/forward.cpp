// SPDX-License-Identifier: MIT
#include "forward.h"

#include "instances.h"

namespace guide::cuda {

// Defined in ptx.cuh for the kernels; here they only name the instances.
struct BFloat16;
struct Float16;

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

template <class Element, int kHeadDim>
cudaError_t launch_instance(const ForwardParams& params, cudaStream_t stream) {
  if (params.attention.attn_bias != nullptr) {
    return sm80::launch_dense_forward<Element, kHeadDim>(params, stream);
  }
  return sm80::launch_forward<Element, kHeadDim>(params, stream);
}

template <class Element>
cudaError_t launch_for_head_dim(const ForwardParams& params, cudaStream_t stream) {
  const AttentionParams& attention = params.attention;
  const std::int64_t head_dim =
      attention.head_dim > attention.head_dim_v ? attention.head_dim : attention.head_dim_v;
  if (head_dim <= 32) return launch_instance<Element, 32>(params, stream);
  if (head_dim <= 64) return launch_instance<Element, 64>(params, stream);
  if (head_dim <= 96) return launch_instance<Element, 96>(params, stream);
  if (head_dim <= 128) return launch_instance<Element, 128>(params, stream);
  if (head_dim <= kMaxHeadDim) return launch_instance<Element, 256>(params, stream);
  return cudaErrorInvalidValue;
}

cudaError_t launch(const ForwardParams& params, cudaStream_t stream) {
  switch (params.attention.element_type) {
    case ElementType::kBFloat16:
      return launch_for_head_dim<BFloat16>(params, stream);
    case ElementType::kFloat16:
      return launch_for_head_dim<Float16>(params, stream);
    default:
      return cudaErrorInvalidValue;
  }
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
         params.head_dim <= kMaxHeadDim && params.head_dim_v <= kMaxHeadDim &&
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
    const cudaError_t error = launch(pass, stream);
    channels_left -= attention.channels;
    if (error != cudaSuccess || channels_left == 0) return error;
    attention.influence += kMaxChannels * attention.influence_channel_stride;
    attention.influence_out += kMaxChannels * attention.num_heads * attention.seqlen_q;
  }
}

}  // namespace guide::cuda
