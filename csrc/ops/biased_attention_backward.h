// SPDX-License-Identifier: MIT
// The contract of guide::biased_attention_backward between torch and the kernels.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "attention/backward_params.h"
#include "ops/biased_attention.h"

namespace guide {

// What reached the results of a call, and those results, in the order of the schema.
struct BackwardArguments {
  const std::optional<Tensor>& grad_out;            // as out
  const std::optional<Tensor>& grad_influence_out;  // as influence_out
  const std::optional<Tensor>& grad_lse;            // as lse
  const Arguments& call;
  const Tensor& out;            // [batch, num_heads, seqlen_q, head_dim_v]
  const Tensor& influence_out;  // [batch, channels, num_heads, seqlen_q]
  const Tensor& lse;            // [batch, num_heads, seqlen_q]
  const std::vector<bool>& wanted;
};

// Of query, key, value, key_bias, influence, attn_bias, sinks.
constexpr std::size_t kNumGradients = 7;
constexpr std::size_t kAttnBiasGradient = 5;
using Gradients = std::array<Tensor, kNumGradients>;

// Throws std::invalid_argument for the first argument that the op cannot take, those of the call
// included. Same order and words as guide_ext/op/checks.py.
void check_backward_arguments(const BackwardArguments& arguments);

// Whether a gradient is wanted of an input that exists.
bool is_wanted(const BackwardArguments& arguments, std::size_t index);

// Uninitialised gradients of a checked call; those that nobody wants have no element.
Gradients allocate_gradients(const BackwardArguments& arguments);

// A checked call with its gradients.
BackwardParams pack_backward(const BackwardArguments& arguments, const Gradients& gradients);

// Runs guide::biased_attention_backward_chunked, the pure-PyTorch implementation.
Gradients call_chunked_backward(const BackwardArguments& arguments);

}  // namespace guide
