// SPDX-License-Identifier: MIT
// One biased_attention call as raw pointers, strides and sizes, after every check has passed.
//
// Shared by every backend, so it knows neither torch nor any device. Plain data only: the CPU
// instruction-set units must not emit functions that another unit could be linked against.
#pragma once

#include <cstdint>

namespace guide {

enum class ElementType : std::int32_t { kFloat32, kBFloat16, kFloat16, kFloat64, kBool };

// A [batch, heads, rows, elements] tensor whose elements are contiguous. Strides are in elements
// and may be 0 (expanded) or negative.
struct RowStrides {
  std::int64_t batch;
  std::int64_t head;
  std::int64_t row;
};

struct AttentionParams {
  std::int64_t batch;
  std::int64_t num_heads;
  std::int64_t num_kv_heads;
  std::int64_t group_size;  // num_heads / num_kv_heads
  std::int64_t seqlen_q;
  std::int64_t seqlen_k;
  std::int64_t head_dim;
  std::int64_t head_dim_v;

  ElementType element_type;  // of query, key, value and out
  const void* query;         // [batch, num_heads, seqlen_q, head_dim]
  const void* key;           // [batch, num_kv_heads, seqlen_k, head_dim]
  const void* value;         // [batch, num_kv_heads, seqlen_k, head_dim_v]
  RowStrides query_strides;
  RowStrides key_strides;
  RowStrides value_strides;

  const float* key_bias;  // [batch, num_heads, seqlen_k] after broadcasting, nats; null: none
  std::int64_t key_bias_batch_stride;
  std::int64_t key_bias_head_stride;  // 0: the heads share one bias
  std::int64_t key_bias_key_stride;

  const float* influence;  // [batch, channels, seqlen_k] after broadcasting; null: none
  std::int64_t channels;   // 0 without influence
  std::int64_t influence_batch_stride;
  std::int64_t influence_channel_stride;
  std::int64_t influence_key_stride;

  const void* attn_bias;  // [batch, num_heads, seqlen_q, seqlen_k] after broadcasting; null: none
  ElementType attn_bias_type;  // kBool: true = visible; otherwise nats
  std::int64_t attn_bias_batch_stride;
  std::int64_t attn_bias_head_stride;
  std::int64_t attn_bias_row_stride;
  std::int64_t attn_bias_key_stride;

  const void* sinks;  // [num_heads], nats; null: none
  ElementType sinks_type;
  std::int64_t sinks_stride;

  const std::int32_t* q_start;  // [batch] after broadcasting; null: seqlen_k - seqlen_q
  std::int64_t q_start_stride;

  void* out;  // [batch, num_heads, seqlen_q, head_dim_v]
  RowStrides out_strides;
  float* influence_out;  // [batch, channels, num_heads, seqlen_q], contiguous
  float* lse;            // [batch, num_heads, seqlen_q], contiguous, nats

  float scale;
  float softcap;  // 0: off
  bool is_causal;
  std::int64_t window_left;  // -1: unlimited
  std::int64_t window_right;
};

}  // namespace guide
