// SPDX-License-Identifier: MIT
#include "ops/biased_attention.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/stableivalue_conversions.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "ops/python_errors.h"

namespace guide {

namespace {

using torch::headeronly::ScalarType;

// Stride of a dimension that may have size 1 and then stands for every index.
std::int64_t broadcast_stride(const Tensor& tensor, std::int64_t dim) {
  return tensor.size(dim) == 1 ? 0 : tensor.stride(dim);
}

RowStrides row_strides(const Tensor& tensor) {
  return {tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

ElementType element_type_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::BFloat16:
      return ElementType::kBFloat16;
    case ScalarType::Half:
      return ElementType::kFloat16;
    case ScalarType::Double:
      return ElementType::kFloat64;
    case ScalarType::Bool:
      return ElementType::kBool;
    default:
      return ElementType::kFloat32;
  }
}

void pack_optional_tensors(const Arguments& arguments, AttentionParams& params) {
  if (arguments.key_bias) {
    const Tensor& key_bias = *arguments.key_bias;
    params.key_bias = static_cast<const float*>(key_bias.const_data_ptr());
    params.key_bias_batch_stride = broadcast_stride(key_bias, 0);
    params.key_bias_head_stride = broadcast_stride(key_bias, 1);
    params.key_bias_key_stride = key_bias.stride(2);
  }
  if (arguments.influence) {
    const Tensor& influence = *arguments.influence;
    params.influence = static_cast<const float*>(influence.const_data_ptr());
    params.channels = influence.size(1);
    params.influence_batch_stride = broadcast_stride(influence, 0);
    params.influence_channel_stride = influence.stride(1);
    params.influence_key_stride = influence.stride(2);
  }
  if (arguments.attn_bias) {
    const Tensor& attn_bias = *arguments.attn_bias;
    params.attn_bias = attn_bias.const_data_ptr();
    params.attn_bias_type = element_type_of(attn_bias);
    params.attn_bias_batch_stride = broadcast_stride(attn_bias, 0);
    params.attn_bias_head_stride = broadcast_stride(attn_bias, 1);
    params.attn_bias_row_stride = attn_bias.stride(2);
    params.attn_bias_key_stride = attn_bias.stride(3);
  }
  if (arguments.sinks) {
    params.sinks = arguments.sinks->const_data_ptr();
    params.sinks_type = element_type_of(*arguments.sinks);
    params.sinks_stride = arguments.sinks->stride(0);
  }
  if (arguments.q_start) {
    params.q_start = static_cast<const std::int32_t*>(arguments.q_start->const_data_ptr());
    params.q_start_stride = broadcast_stride(*arguments.q_start, 0);
  }
}

template <std::size_t kDims>
Tensor new_empty_float32(const Tensor& like, const std::array<std::int64_t, kDims>& sizes) {
  // As torch computes the strides of a contiguous tensor, empty ones included.
  std::array<std::int64_t, kDims> strides;
  std::int64_t stride = 1;
  for (std::size_t dim = kDims; dim-- > 0;) {
    strides[dim] = stride;
    stride *= std::max<std::int64_t>(sizes[dim], 1);
  }
  return new_empty_strided(like, {sizes.data(), kDims}, {strides.data(), kDims}, ScalarType::Float);
}

}  // namespace

Results allocate_results(const Arguments& arguments) {
  const Tensor& query = arguments.query;
  const std::int64_t batch = query.size(0);
  const std::int64_t num_heads = query.size(1);
  const std::int64_t seqlen_q = query.size(2);
  const std::int64_t head_dim_v = arguments.value.size(3);
  const std::int64_t channels = arguments.influence ? arguments.influence->size(1) : 0;
  // Not the transpose of another tensor: a view that a custom op returns cannot be changed in place
  // under autograd.
  return {
      new_empty_strided(query, {batch, num_heads, seqlen_q, head_dim_v},
                        {seqlen_q * num_heads * head_dim_v, head_dim_v, num_heads * head_dim_v, 1},
                        query.scalar_type()),
      new_empty_float32(query, std::array{batch, channels, num_heads, seqlen_q}),
      new_empty_float32(query, std::array{batch, num_heads, seqlen_q})};
}

AttentionParams pack_arguments(const Arguments& arguments) {
  const Tensor& query = arguments.query;
  const Tensor& key = arguments.key;
  const Tensor& value = arguments.value;
  AttentionParams params{};
  params.batch = query.size(0);
  params.num_heads = query.size(1);
  params.num_kv_heads = key.size(1);
  params.group_size = params.num_heads / params.num_kv_heads;
  params.seqlen_q = query.size(2);
  params.seqlen_k = key.size(2);
  params.head_dim = query.size(3);
  params.head_dim_v = value.size(3);
  params.element_type = element_type_of(query);
  params.query = query.const_data_ptr();
  params.key = key.const_data_ptr();
  params.value = value.const_data_ptr();
  params.query_strides = row_strides(query);
  params.key_strides = row_strides(key);
  params.value_strides = row_strides(value);
  pack_optional_tensors(arguments, params);

  const double default_scale = 1.0 / std::sqrt(static_cast<double>(params.head_dim));
  params.scale = static_cast<float>(arguments.scale.value_or(default_scale));
  params.softcap = static_cast<float>(arguments.softcap);
  params.is_causal = arguments.is_causal;
  params.window_left = arguments.window_left;
  params.window_right = arguments.window_right;
  return params;
}

void pack_results(const Results& results, AttentionParams& params) {
  params.out = results.out.mutable_data_ptr();
  params.out_strides = row_strides(results.out);
  params.influence_out = static_cast<float*>(results.influence_out.mutable_data_ptr());
  params.lse = static_cast<float*>(results.lse.mutable_data_ptr());
}

Results call_chunked(const Arguments& arguments) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::array<StableIValue, 13> stack{
      from(arguments.query),       from(arguments.key),          from(arguments.value),
      from(arguments.key_bias),    from(arguments.influence),    from(arguments.attn_bias),
      from(arguments.sinks),       from(arguments.q_start),      from(arguments.is_causal),
      from(arguments.window_left), from(arguments.window_right), from(arguments.scale),
      from(arguments.softcap)};
  call_python("guide::biased_attention_chunked", stack.data());
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1]), to<Tensor>(stack[2])};
}

}  // namespace guide
