// SPDX-License-Identifier: MIT
#include "ops/biased_attention_backward.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/stableivalue_conversions.h>

#include <algorithm>

#include "ops/python_errors.h"

namespace guide {

namespace {

const Tensor* input_of(const Arguments& call, std::size_t index) {
  const auto optional = [](const std::optional<Tensor>& tensor) {
    return tensor ? &*tensor : nullptr;
  };
  const std::array<const Tensor*, kNumGradients> inputs{&call.query,
                                                        &call.key,
                                                        &call.value,
                                                        optional(call.key_bias),
                                                        optional(call.influence),
                                                        optional(call.attn_bias),
                                                        optional(call.sinks)};
  return inputs[index];
}

Tensor new_empty_contiguous(const Tensor& like) {
  std::vector<std::int64_t> strides(static_cast<std::size_t>(like.dim()));
  std::int64_t stride = 1;
  for (std::size_t dim = strides.size(); dim-- > 0;) {
    strides[dim] = stride;
    stride *= std::max<std::int64_t>(like.size(static_cast<std::int64_t>(dim)), 1);
  }
  return new_empty_strided(like, like.sizes(), {strides.data(), strides.size()},
                           like.scalar_type());
}

RowStrides row_strides(const Tensor& tensor) {
  return {tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

FlowStrides flow_strides(const Tensor& tensor) {
  return {tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

void pack_results(const BackwardArguments& arguments, BackwardParams& params) {
  params.out = arguments.out.const_data_ptr();
  params.out_strides = row_strides(arguments.out);
  params.out_dim_stride = arguments.out.stride(3);
  params.influence_out = static_cast<const float*>(arguments.influence_out.const_data_ptr());
  params.influence_out_strides = flow_strides(arguments.influence_out);
  params.lse = static_cast<const float*>(arguments.lse.const_data_ptr());
  params.lse_strides = row_strides(arguments.lse);
  if (arguments.grad_out) {
    params.grad_out = arguments.grad_out->const_data_ptr();
    params.grad_out_strides = row_strides(*arguments.grad_out);
    params.grad_out_dim_stride = arguments.grad_out->stride(3);
  }
  if (arguments.grad_influence_out && params.call.channels > 0) {
    const Tensor& gradient = *arguments.grad_influence_out;
    params.grad_influence_out = static_cast<const float*>(gradient.const_data_ptr());
    params.grad_influence_out_strides = flow_strides(gradient);
  }
  if (arguments.grad_lse) {
    params.grad_lse = static_cast<const float*>(arguments.grad_lse->const_data_ptr());
    params.grad_lse_strides = row_strides(*arguments.grad_lse);
  }
}

}  // namespace

bool is_wanted(const BackwardArguments& arguments, std::size_t index) {
  return arguments.wanted[index] && input_of(arguments.call, index) != nullptr;
}

Gradients allocate_gradients(const BackwardArguments& arguments) {
  const auto allocate = [&](std::size_t index) {
    if (is_wanted(arguments, index)) return new_empty_contiguous(*input_of(arguments.call, index));
    static constexpr std::int64_t kNone = 0, kOne = 1;
    const Tensor& query = arguments.call.query;
    return new_empty_strided(query, {&kNone, 1}, {&kOne, 1}, query.scalar_type());
  };
  return {allocate(0), allocate(1), allocate(2), allocate(3),
          allocate(4), allocate(5), allocate(6)};
}

BackwardParams pack_backward(const BackwardArguments& arguments, const Gradients& gradients) {
  BackwardParams params{};
  params.call = pack_arguments(arguments.call);
  pack_results(arguments, params);
  const auto target = [&](std::size_t index) {
    return is_wanted(arguments, index) ? gradients[index].mutable_data_ptr() : nullptr;
  };
  params.grad_query = target(0);
  params.grad_key = target(1);
  params.grad_value = target(2);
  params.grad_key_bias = static_cast<float*>(target(3));
  params.grad_influence = static_cast<float*>(target(4));
  params.grad_sinks = target(6);
  if (arguments.call.key_bias) {
    params.key_bias_batches = arguments.call.key_bias->size(0);
    params.key_bias_heads = arguments.call.key_bias->size(1);
  }
  if (arguments.call.influence) params.influence_batches = arguments.call.influence->size(0);
  return params;
}

Gradients call_chunked_backward(const BackwardArguments& arguments) {
  using torch::headeronly::HeaderOnlyArrayRef;
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  const Arguments& call = arguments.call;
  std::array<bool, kNumGradients> wanted{};  // bits of a vector have no address
  std::copy(arguments.wanted.begin(), arguments.wanted.end(), wanted.begin());
  std::array<StableIValue, 20> stack{from(arguments.grad_out),
                                     from(arguments.grad_influence_out),
                                     from(arguments.grad_lse),
                                     from(call.query),
                                     from(call.key),
                                     from(call.value),
                                     from(call.key_bias),
                                     from(call.influence),
                                     from(call.attn_bias),
                                     from(call.sinks),
                                     from(call.q_start),
                                     from(arguments.out),
                                     from(arguments.influence_out),
                                     from(arguments.lse),
                                     from(call.is_causal),
                                     from(call.window_left),
                                     from(call.window_right),
                                     from(call.scale),
                                     from(call.softcap),
                                     from(HeaderOnlyArrayRef<bool>(wanted.data(), wanted.size()))};
  call_python("guide::biased_attention_backward_chunked", stack.data());
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1]), to<Tensor>(stack[2]), to<Tensor>(stack[3]),
          to<Tensor>(stack[4]), to<Tensor>(stack[5]), to<Tensor>(stack[6])};
}

}  // namespace guide
