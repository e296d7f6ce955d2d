// SPDX-License-Identifier: MIT
// The contract of guide::biased_attention between torch and the kernels: its arguments, their
// checks, its results, and how both become AttentionParams. The same for every device.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

#include "attention/params.h"

namespace guide {

using torch::stable::Tensor;

// One call, in the order of the schema.
struct Arguments {
  const Tensor& query;                     // [batch, num_heads, seqlen_q, head_dim]
  const Tensor& key;                       // [batch, num_kv_heads, seqlen_k, head_dim]
  const Tensor& value;                     // [batch, num_kv_heads, seqlen_k, head_dim_v]
  const std::optional<Tensor>& key_bias;   // [1 or batch, 1 or num_heads, seqlen_k]
  const std::optional<Tensor>& influence;  // [1 or batch, channels, seqlen_k]
  const std::optional<Tensor>& attn_bias;  // [1 or batch, 1 or num_heads, seqlen_q, seqlen_k]
  const std::optional<Tensor>& sinks;      // [num_heads]
  const std::optional<Tensor>& q_start;    // [1 or batch]
  bool is_causal;
  std::int64_t window_left;
  std::int64_t window_right;
  std::optional<double> scale;
  double softcap;
};

struct Results {
  Tensor out;            // [batch, num_heads, seqlen_q, head_dim_v], stored [b, q, h, d]
  Tensor influence_out;  // [batch, channels, num_heads, seqlen_q]
  Tensor lse;            // [batch, num_heads, seqlen_q]
};

// Throws std::invalid_argument, which Python sees as ValueError, for the first argument that the
// op cannot take. Same order and words as guide_ext/op/checks.py.
void check_arguments(const Arguments& arguments);

// Uninitialised results of a checked call.
Results allocate_results(const Arguments& arguments);

// A checked call without its results: what a kernel is chosen by.
AttentionParams pack_arguments(const Arguments& arguments);

// Adds where the results go.
void pack_results(const Results& results, AttentionParams& params);

// Runs guide::biased_attention_chunked, the pure-PyTorch implementation, through the dispatcher.
Results call_chunked(const Arguments& arguments);

// The op in the types of the schema, to be registered for a device: checks a call, then runs it.
template <Results (*kRun)(const Arguments&)>
std::tuple<Tensor, Tensor, Tensor> checked_op(
    const Tensor& query, const Tensor& key, const Tensor& value,
    const std::optional<Tensor>& key_bias, const std::optional<Tensor>& influence,
    const std::optional<Tensor>& attn_bias, const std::optional<Tensor>& sinks,
    const std::optional<Tensor>& q_start, bool is_causal, std::int64_t window_left,
    std::int64_t window_right, std::optional<double> scale, double softcap) {
  const Arguments arguments{query,        key,   value,   key_bias,  influence,
                            attn_bias,    sinks, q_start, is_causal, window_left,
                            window_right, scale, softcap};
  check_arguments(arguments);
  const Results results = kRun(arguments);
  return {results.out, results.influence_out, results.lse};
}

}  // namespace guide
