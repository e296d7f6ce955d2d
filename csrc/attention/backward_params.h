// SPDX-License-Identifier: MIT
// The gradients of one biased_attention call as raw pointers, strides and sizes, after every check
// has passed. Plain data only, as params.h.
#pragma once

#include <cstdint>

#include "params.h"

namespace guide {

// A [batch, channels, heads, rows] tensor. Strides are in elements and may be 0.
struct FlowStrides {
  std::int64_t batch;
  std::int64_t channel;
  std::int64_t head;
  std::int64_t row;
};

struct BackwardParams {
  AttentionParams call;  // what the forward pass was called with; its results are below

  const void* out;  // [batch, num_heads, seqlen_q, head_dim_v], of the element type
  RowStrides out_strides;
  std::int64_t out_dim_stride;
  const float* influence_out;  // [batch, channels, num_heads, seqlen_q]
  FlowStrides influence_out_strides;
  const float* lse;  // [batch, num_heads, seqlen_q]
  RowStrides lse_strides;

  // What reached the results, in their shapes; null where nothing did.
  const void* grad_out;
  RowStrides grad_out_strides;
  std::int64_t grad_out_dim_stride;
  const float* grad_influence_out;
  FlowStrides grad_influence_out_strides;
  const float* grad_lse;
  RowStrides grad_lse_strides;

  // The gradients, contiguous, in shape and type of their inputs; null where nobody wants one.
  void* grad_query;
  void* grad_key;
  void* grad_value;
  float* grad_key_bias;           // [key_bias_batches, key_bias_heads, seqlen_k]
  std::int64_t key_bias_batches;  // 1 or batch
  std::int64_t key_bias_heads;    // 1 or num_heads
  float* grad_influence;          // [influence_batches, channels, seqlen_k]
  std::int64_t influence_batches;
  void* grad_sinks;  // [num_heads]
};

}  // namespace guide
