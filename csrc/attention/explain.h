// SPDX-License-Identifier: MIT
// The C interface through which guide_ext/op/dispatch.py asks a library for its choice of a kernel.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

#include "reasons.h"

namespace guide {

// What a choice depends on. dispatch.py has the same fields in the same order.
struct CallDescription {
  const char* dtype;  // of query, key and value, as torch names it
  std::int64_t batch;
  std::int64_t num_heads;
  std::int64_t num_kv_heads;
  std::int64_t seqlen_q;
  std::int64_t seqlen_k;
  std::int64_t head_dim;
  std::int64_t head_dim_v;
  std::int64_t query_address;  // 0: unknown, and taken to be aligned
  std::int64_t key_address;
  std::int64_t value_address;
  RowStrides query_strides;
  RowStrides key_strides;
  RowStrides value_strides;
  std::int64_t channels;      // of influence; 0 without
  std::int64_t has_key_bias;  // 0 or 1, like the next three
  std::int64_t has_attn_bias;
  std::int64_t has_sinks;
  std::int64_t has_q_start;
  std::int64_t is_causal;  // 0 or 1
  std::int64_t window_left;
  std::int64_t window_right;
  double softcap;
};

// Everything that a choice may look at. The pointers are not to be followed.
inline AttentionParams params_of(const CallDescription& call) {
  static constexpr float kNumber = 0.f;
  static constexpr std::int32_t kPosition = 0;
  const auto pointer = [](std::int64_t address) {
    return reinterpret_cast<const void*>(static_cast<std::uintptr_t>(address));
  };
  AttentionParams params{};
  params.batch = call.batch;
  params.num_heads = call.num_heads;
  params.num_kv_heads = call.num_kv_heads;
  params.group_size = call.num_heads / call.num_kv_heads;
  params.seqlen_q = call.seqlen_q;
  params.seqlen_k = call.seqlen_k;
  params.head_dim = call.head_dim;
  params.head_dim_v = call.head_dim_v;
  for (const ElementType type : {ElementType::kFloat32, ElementType::kBFloat16,
                                 ElementType::kFloat16, ElementType::kFloat64}) {
    if (std::strcmp(call.dtype, name_of(type)) == 0) params.element_type = type;
  }
  params.query = pointer(call.query_address);
  params.key = pointer(call.key_address);
  params.value = pointer(call.value_address);
  params.query_strides = call.query_strides;
  params.key_strides = call.key_strides;
  params.value_strides = call.value_strides;
  params.channels = call.channels;
  params.influence = call.channels != 0 ? &kNumber : nullptr;
  params.key_bias = call.has_key_bias != 0 ? &kNumber : nullptr;
  params.attn_bias = call.has_attn_bias != 0 ? &kNumber : nullptr;
  params.sinks = call.has_sinks != 0 ? &kNumber : nullptr;
  params.q_start = call.has_q_start != 0 ? &kPosition : nullptr;
  params.is_causal = call.is_causal != 0;
  params.window_left = call.window_left;
  params.window_right = call.window_right;
  params.softcap = static_cast<float>(call.softcap);
  return params;
}

// "kernel\nreason\nreason", with no kernel where none takes the call. The text lives until the
// thread asks again.
inline const char* text_of_choice(const std::string& kernel, const Reasons& reasons) {
  thread_local std::string text;
  text = kernel;
  for (const std::string& reason : reasons) text += "\n" + reason;
  return text.c_str();
}

}  // namespace guide
