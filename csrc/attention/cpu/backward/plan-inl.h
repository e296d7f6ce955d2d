// SPDX-License-Identifier: MIT
// How the gradients of a call are cut into tasks, and where memory holds what.
#pragma once

#include "../plan-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace backward {

// A register tile: kTileRows numbers, each broadcast, times kPanel lanes. 16 or 8 accumulators.
#if defined(__AVX512F__)
constexpr int kTileRows = 8;
constexpr int kTileVectors = 2;
#elif defined(GUIDE_CPU_NEON)
constexpr int kTileRows = 4;
constexpr int kTileVectors = 4;
#else
constexpr int kTileRows = 4;
constexpr int kTileVectors = 2;
#endif
constexpr int kPanel = kTileVectors * kLanes;

constexpr std::int64_t kBlockM = 64;  // rows of a block, whole tiles
// Between rows, so that equal places of all rows do not fall into one set of the cache.
constexpr std::int64_t kRowPadding = 16;

// Rows of one head.
struct RowBlock {
  std::int64_t num_rows;
  std::int64_t batch_idx;
  std::int64_t head_idx;
  std::int64_t q_begin;
};

constexpr std::int64_t padded_dim(std::int64_t head_dim) { return round_up(head_dim, kPanel); }
constexpr std::int64_t row_stride(std::int64_t numbers) { return numbers + kRowPadding; }

// What the tasks of a call share.
struct Shared {
  float* origin;  // [batch, num_heads, seqlen_q]: a weight is 2^(score - origin) * factor, in bits
  float* factor;  // [batch, num_heads, seqlen_q]
  float* delta;   // [batch, num_heads, seqlen_q]
  float* sinks;   // [batch, num_heads, row_blocks], parts of grad_sinks
  float* query;   // [batch, num_heads, seqlen_q, head_dim], the sums of grad_query
  float* key_bias;       // [batch, num_heads or num_kv_heads, seqlen_k], parts of grad_key_bias
  float* influence;      // [batch, num_kv_heads, channels, seqlen_k], parts of grad_influence
  std::int32_t* visits;  // [batch, num_heads, row_blocks], tasks that have added to query
  std::int64_t num_visits;
  std::int64_t num_floats;
};

// Heads of which grad_key_bias has a part each.
inline std::int64_t key_bias_parts(const BackwardParams& params) {
  return params.key_bias_heads > 1 ? params.call.num_heads : params.call.num_kv_heads;
}

inline Shared layout_shared(const BackwardParams& params, const BackwardPlan& plan, float* base) {
  const AttentionParams& call = params.call;
  const std::int64_t rows = call.batch * call.num_heads * call.seqlen_q;
  Carver carver(base);
  Shared shared{};
  shared.origin = carver.take(rows);
  shared.factor = carver.take(rows);
  shared.delta = carver.take(rows);
  shared.num_visits = plan.row_tasks;
  shared.visits = reinterpret_cast<std::int32_t*>(carver.take(plan.row_tasks));
  if (params.grad_sinks != nullptr) shared.sinks = carver.take(plan.row_tasks);
  if (params.grad_query != nullptr) {
    // In place where the result is fp32.
    shared.query = call.element_type == ElementType::kFloat32
                       ? static_cast<float*>(params.grad_query)
                       : carver.take(rows * call.head_dim);
  }
  if (params.grad_key_bias != nullptr) {
    shared.key_bias = carver.take(call.batch * key_bias_parts(params) * call.seqlen_k);
  }
  if (params.grad_influence != nullptr) {
    shared.influence = carver.take(call.batch * call.num_kv_heads * call.channels * call.seqlen_k);
  }
  shared.num_floats = carver.used();
  return shared;
}

// Scratch memory of a worker. Keys are those of a task, rows those of a block.
struct Scratch {
  float* key;              // [keys, row_stride(padded head_dim)], 0 for what is not finite
  float* key_panels;       // [panels, head_dim, kPanel]
  float* value_panels;     // [panels, head_dim_v, kPanel]
  float* influence;        // [channels, keys]
  float* key_bias;         // [keys], bits; -inf after the last key
  float* addends;          // [kBlockM, row_stride(keys)], instead of key_bias with attn_bias
  float* query;            // [kBlockM, row_stride(padded head_dim)]
  float* finite_query;     // the same, 0 for what is not finite
  float* grad_out;         // [kBlockM, row_stride(padded head_dim_v)]
  float* grad_flow;        // [kBlockM, channels]
  float* prob;             // [kBlockM, row_stride(keys)]
  float* grad_score;       // [kBlockM, row_stride(keys)], with the soft-cap's slope: of the dots
  float* slope;            // [kBlockM, row_stride(keys)], with a soft-cap
  float* key_sums;         // [keys, row_stride(padded head_dim)]
  float* value_sums;       // [keys, row_stride(padded head_dim_v)]
  float* bias_sums;        // [keys]
  float* influence_sums;   // [channels, keys]
  float* block_bias;       // [keys], of one block of rows
  float* block_influence;  // [channels, keys]
  std::int64_t num_floats;
};

inline Scratch layout_scratch(const BackwardParams& params, const BackwardPlan& plan, float* base) {
  const AttentionParams& call = params.call;
  const std::int64_t keys = plan.keys_per_task;
  const std::int64_t query_stride = row_stride(padded_dim(call.head_dim));
  const std::int64_t value_stride = row_stride(padded_dim(call.head_dim_v));
  const std::int64_t scores = kBlockM * row_stride(keys);
  Carver carver(base);
  Scratch scratch{};
  scratch.key = carver.take(keys * query_stride);
  scratch.key_panels = carver.take(keys * call.head_dim);
  scratch.value_panels = carver.take(keys * call.head_dim_v);
  scratch.influence = carver.take(call.channels * keys);
  scratch.key_bias = carver.take(keys);
  scratch.addends = carver.take(call.attn_bias != nullptr ? scores : 0);
  scratch.query = carver.take(kBlockM * query_stride);
  scratch.finite_query = carver.take(kBlockM * query_stride);
  scratch.grad_out = carver.take(kBlockM * value_stride);
  scratch.grad_flow = carver.take(kBlockM * call.channels);
  scratch.prob = carver.take(scores);
  scratch.grad_score = carver.take(scores);
  scratch.slope = carver.take(call.softcap != 0.f ? scores : 0);
  scratch.key_sums = carver.take(keys * query_stride);
  scratch.value_sums = carver.take(keys * value_stride);
  scratch.bias_sums = carver.take(keys);
  scratch.influence_sums = carver.take(call.channels * keys);
  scratch.block_bias = carver.take(keys);
  scratch.block_influence = carver.take(call.channels * keys);
  scratch.num_floats = carver.used();
  return scratch;
}

inline BackwardPlan make_plan(const BackwardParams& params) {
  const AttentionParams& call = params.call;
  const std::int64_t largest_dim = max_of(call.head_dim, call.head_dim_v);
  BackwardPlan plan{};
  // Panels, keys and sums of a task stay in the second-level cache.
  plan.keys_per_task = largest_dim <= 128 ? 128 : largest_dim <= 256 ? 64 : 32;
  plan.key_blocks = ceil_div(call.seqlen_k, plan.keys_per_task);
  plan.row_blocks = ceil_div(call.seqlen_q, kBlockM);
  plan.row_tasks = call.batch * call.num_heads * plan.row_blocks;
  plan.tasks = call.batch * call.num_kv_heads * plan.key_blocks;
  // A head's rows, a key's sums over the heads, or the sinks.
  plan.finish_tasks = plan.row_tasks + plan.key_blocks + 1;
  plan.shared_floats = layout_shared(params, plan, nullptr).num_floats;
  plan.scratch_floats = layout_scratch(params, plan, nullptr).num_floats;
  return plan;
}

inline RowBlock row_block_of(const BackwardParams& params, std::int64_t batch_idx,
                             std::int64_t head_idx, std::int64_t block_idx) {
  const std::int64_t q_begin = block_idx * kBlockM;
  return {min_of(kBlockM, params.call.seqlen_q - q_begin), batch_idx, head_idx, q_begin};
}

// Index of a row block among all of a call.
inline std::int64_t row_task_of(const BackwardParams& params, const BackwardPlan& plan,
                                const RowBlock& block) {
  return (block.batch_idx * params.call.num_heads + block.head_idx) * plan.row_blocks +
         block.q_begin / kBlockM;
}

inline RowBlock row_block_at(const BackwardParams& params, const BackwardPlan& plan,
                             std::int64_t row_task) {
  const std::int64_t head = row_task / plan.row_blocks;
  return row_block_of(params, head / params.call.num_heads, head % params.call.num_heads,
                      row_task % plan.row_blocks);
}

// Index of the first row of a block among all rows of a call.
inline std::int64_t first_row_of(const BackwardParams& params, const RowBlock& block) {
  return (block.batch_idx * params.call.num_heads + block.head_idx) * params.call.seqlen_q +
         block.q_begin;
}

// The key blocks that rows of a block may see, half-open. Both ends of what a row sees grow with
// its position.
inline KeyRange key_blocks_of(const BackwardParams& params, const BackwardPlan& plan,
                              const RowBlock& block) {
  const std::int64_t position = position_of(params.call, block.batch_idx, block.q_begin);
  const KeyRange first = visible_keys(params.call, position);
  const KeyRange last = visible_keys(params.call, position + block.num_rows - 1);
  if (first.begin >= last.end) return {0, 0};
  return {first.begin / plan.keys_per_task, ceil_div(last.end, plan.keys_per_task)};
}

}  // namespace backward
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
