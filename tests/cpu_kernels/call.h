// SPDX-License-Identifier: MIT
// A problem as the kernels take it.
#pragma once

#include <thread>

#include "attention/cpu/backward.h"
#include "attention/cpu/forward.h"
#include "problem.h"

inline void run_workers(std::int64_t workers, void (*body)(void* context, std::int64_t worker),
                        void* context) {
  std::vector<std::thread> threads;
  for (std::int64_t worker = 0; worker < workers; ++worker) {
    threads.emplace_back(body, context, worker);
  }
  for (std::thread& thread : threads) thread.join();
}

struct ForwardResults {
  Array out, influence_out, lse;
};

struct Gradients {
  Array query, key, value, key_bias, influence, sinks;
};

class Call {
 public:
  Call(const Problem& problem, const Inputs& inputs)
      : problem_(problem),
        query_(problem.type, inputs.query),
        key_(problem.type, inputs.key),
        value_(problem.type, inputs.value),
        key_bias_(kFloat32, inputs.key_bias),
        influence_(kFloat32, inputs.influence),
        dense_bias_(kFloat32, inputs.dense_bias),
        hides_(ElementType::kBool, inputs.dense_bias.size()),
        sinks_(kFloat32, inputs.sinks),
        grad_out_(problem.type, inputs.grad_out),
        grad_influence_out_(kFloat32, inputs.grad_influence_out),
        grad_lse_(kFloat32, inputs.grad_lse),
        start_(static_cast<std::int32_t>(problem.seqlen_k - problem.seqlen_q) +
               problem.position_offset) {
    for (std::size_t i = 0; i < inputs.dense_bias.size(); ++i) {
      static_cast<bool*>(hides_.data())[i] = std::isfinite(inputs.dense_bias[i]);
    }
  }

  const guide::cpu::Kernel& kernel() const { return *guide::cpu::choose(params()).kernel; }

  ForwardResults run(const guide::cpu::Routine& routine, std::int64_t threads) const {
    ForwardResults results{
        Array(problem_.type, size(problem_.rows() * problem_.head_dim_v)),
        Array(kFloat32, size(problem_.rows() * problem_.channels)),
        Array(kFloat32, size(problem_.rows())),
    };
    guide::AttentionParams call = params();
    call.out = results.out.data();
    call.influence_out = results.influence_out.floats();
    call.lse = results.lse.floats();
    guide::cpu::forward(call, {&kernel(), &routine}, {threads, run_workers});
    return results;
  }

  // From the results of the forward pass, which may be those of a reference.
  Gradients run_backward(const Results& forward, std::int64_t threads) const {
    const Problem& p = problem_;
    const Array out(p.type, forward.out), influence_out(kFloat32, forward.influence_out),
        lse(kFloat32, forward.lse);
    Gradients gradients{
        Array(p.type, size(p.rows() * p.head_dim)),   Array(p.type, size(p.keys() * p.head_dim)),
        Array(p.type, size(p.keys() * p.head_dim_v)), Array(kFloat32, key_bias_.count()),
        Array(kFloat32, influence_.count()),          Array(kFloat32, sinks_.count())};
    guide::BackwardParams params{};
    params.call = this->params();
    params.out = out.data();
    params.grad_out = grad_out_.data();
    params.out_strides = params.grad_out_strides = params.call.out_strides;
    params.out_dim_stride = params.grad_out_dim_stride = 1;
    params.influence_out = influence_out.floats();
    params.grad_influence_out = grad_influence_out_.floats();
    const std::int64_t head_rows = p.seqlen_q, plane = p.num_heads * head_rows;
    params.influence_out_strides =
        params.grad_influence_out_strides = {p.channels * plane, plane, head_rows, 1};
    params.lse = lse.floats();
    params.grad_lse = grad_lse_.floats();
    params.lse_strides = params.grad_lse_strides = {plane, head_rows, 1};
    params.grad_query = gradients.query.data();
    params.grad_key = gradients.key.data();
    params.grad_value = gradients.value.data();
    params.grad_key_bias = floats_or_null(gradients.key_bias);
    params.key_bias_batches = 1;
    params.key_bias_heads = p.bias_heads();
    params.grad_influence = floats_or_null(gradients.influence);
    params.influence_batches = p.batch;
    params.grad_sinks = floats_or_null(gradients.sinks);
    guide::cpu::backward(params, kernel(), {threads, run_workers});
    return gradients;
  }

 private:
  static constexpr ElementType kFloat32 = ElementType::kFloat32;
  static std::size_t size(std::int64_t count) { return static_cast<std::size_t>(count); }
  static float* floats_or_null(const Array& array) {
    return array.count() == 0 ? nullptr : array.floats();
  }

  guide::AttentionParams params() const {
    const Problem& p = problem_;
    guide::AttentionParams call{};
    call.batch = p.batch;
    call.num_heads = p.num_heads;
    call.num_kv_heads = p.num_kv_heads;
    call.group_size = p.num_heads / p.num_kv_heads;
    call.seqlen_q = p.seqlen_q;
    call.seqlen_k = p.seqlen_k;
    call.head_dim = p.head_dim;
    call.head_dim_v = p.head_dim_v;
    call.element_type = p.type;
    call.query = query_.data();
    call.key = key_.data();
    call.value = value_.data();
    call.query_strides = p.strides(p.num_heads, p.seqlen_q, p.head_dim);
    call.key_strides = p.strides(p.num_kv_heads, p.seqlen_k, p.head_dim);
    call.value_strides = p.strides(p.num_kv_heads, p.seqlen_k, p.head_dim_v);
    call.out_strides = p.strides(p.num_heads, p.seqlen_q, p.head_dim_v);
    call.key_bias = floats_or_null(key_bias_);
    call.key_bias_head_stride = p.bias_heads() > 1 ? p.seqlen_k : 0;
    call.key_bias_key_stride = 1;
    call.influence = floats_or_null(influence_);
    call.channels = p.channels;
    call.influence_batch_stride = p.channels * p.seqlen_k;
    call.influence_channel_stride = p.seqlen_k;
    call.influence_key_stride = 1;
    if (p.dense_bias != DenseBias::kNone) {
      const bool is_bool = p.dense_bias == DenseBias::kBool;
      call.attn_bias = is_bool ? hides_.data() : dense_bias_.data();
      call.attn_bias_type = is_bool ? ElementType::kBool : kFloat32;
      call.attn_bias_row_stride = p.seqlen_k;
      call.attn_bias_key_stride = 1;
    }
    call.sinks = floats_or_null(sinks_);
    call.sinks_type = kFloat32;
    call.sinks_stride = 1;
    call.q_start = p.position_offset != 0 ? &start_ : nullptr;
    call.scale = p.scale;
    call.softcap = p.softcap;
    call.is_causal = p.is_causal;
    call.window_left = p.window_left;
    call.window_right = p.window_right;
    return call;
  }

  const Problem& problem_;
  Array query_, key_, value_, key_bias_, influence_, dense_bias_, hides_, sinks_;
  Array grad_out_, grad_influence_out_, grad_lse_;
  std::int32_t start_;
};
