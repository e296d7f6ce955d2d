// SPDX-License-Identifier: MIT
// The gradients: a task per block of keys, which meets all rows that see one of them.
//
// The sums of key, value, bias and influence stay with the task. To those of query each task of a
// head adds its part in the order of the keys, so that the bits do not depend on the threads.
#pragma once

#include "../../static_dispatch.h"
#include "prepare-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace backward {

// numbers * factor to a row of a contiguous tensor. `numbers` lie in whole vectors.
template <class Element>
void write_row(const float* numbers, float factor, std::int64_t count,
               typename Element::Storage* target) {
  for (std::int64_t i = 0; i < count; i += kLanes) {
    store_elements<Element>(target + i, count - i, load(numbers + i) * factor);
  }
}

template <class Element, bool kSoftcap>
class Task {
 public:
  Task(const BackwardParams& params, const BackwardPlan& plan, std::int64_t task_idx,
       float* scratch, float* shared, void (*pause)())
      : params_(params),
        call_(params.call),
        plan_(plan),
        scratch_(layout_scratch(params, plan, scratch)),
        shared_(layout_shared(params, plan, shared)),
        pause_(pause),
        key_stride_(row_stride(padded_dim(call_.head_dim))),
        value_stride_(row_stride(padded_dim(call_.head_dim_v))),
        score_stride_(row_stride(plan.keys_per_task)) {
    // Early keys come first: under a causal mask most rows see them, and the long tasks should not
    // be the last to start.
    const std::int64_t heads = call_.batch * call_.num_kv_heads;
    const std::int64_t k_begin = task_idx / heads * plan.keys_per_task;
    const std::int64_t num_keys = min_of(plan.keys_per_task, call_.seqlen_k - k_begin);
    keys_ = {task_idx % heads / call_.num_kv_heads, task_idx % call_.num_kv_heads, k_begin,
             num_keys, round_up(num_keys, kPanel)};
    needs_ = {params.grad_out != nullptr, params.grad_influence_out != nullptr,
              params.grad_key_bias != nullptr,
              params.grad_influence != nullptr && params.grad_influence_out != nullptr};
    needs_dots_ = params.grad_query != nullptr || params.grad_key != nullptr;
  }

  void run() {
    pack_keys();
    for (std::int64_t i = 0; i < call_.group_size; ++i) {
      const std::int64_t head_idx = keys_.kv_head_idx * call_.group_size + i;
      if (i == 0 || call_.key_bias_head_stride != 0) {
        bias_hides_ = pack_bias(call_, keys_, head_idx, plan_.keys_per_task, scratch_.key_bias);
      }
      for (std::int64_t block_idx = 0; block_idx < plan_.row_blocks; ++block_idx) {
        const RowBlock block = row_block_of(params_, keys_.batch_idx, head_idx, block_idx);
        const KeyRange seen = key_blocks_of(params_, plan_, block);
        const std::int64_t own_block = keys_.k_begin / plan_.keys_per_task;
        if (own_block < seen.begin || own_block >= seen.end) continue;
        add_rows(block, own_block - seen.begin);
      }
      if (params_.key_bias_heads > 1) write_bias(head_idx);
    }
    if (params_.key_bias_heads == 1) write_bias(keys_.kv_head_idx);
    write_keys();
  }

 private:
  void pack_keys() {
    pack_panels<Element>(call_.value, call_.value_strides, keys_, call_.head_dim_v,
                         scratch_.value_sums, scratch_.value_panels);
    pack_panels<Element>(call_.key, call_.key_strides, keys_, call_.head_dim, scratch_.key,
                         scratch_.key_panels);
    // A hidden key may hold NaN; a row that sees one has a gradient of NaN anyway.
    for (std::int64_t k = 0; k < keys_.num_keys; ++k) {
      make_finite(scratch_.key + k * key_stride_, padded_dim(call_.head_dim));
    }
    pack_influence(call_, keys_, plan_.keys_per_task, scratch_.influence);
    clear(scratch_.key_sums, plan_.keys_per_task * key_stride_);
    clear(scratch_.value_sums, plan_.keys_per_task * value_stride_);
    clear(scratch_.bias_sums, plan_.keys_per_task);
    clear(scratch_.influence_sums, call_.channels * plan_.keys_per_task);
  }

  // Adds a block of rows to all sums; `visit` counts the earlier tasks that add to its queries.
  void add_rows(const RowBlock& block, std::int64_t visit) {
    View view;
    RowFactors rows;
    prepare_view(block, view);
    const std::int64_t first_row = first_row_of(params_, block);
    for (std::int64_t row = 0; row < kBlockM; ++row) {
      const std::int64_t at = first_row + min_of(row, block.num_rows - 1);
      rows.origin[row] = shared_.origin[at];
      rows.factor[row] = shared_.factor[at];
      rows.delta[row] = shared_.delta[at];
    }
    pack_queries<Element>(params_, block, scratch_.query);
    const std::int64_t num_rows = round_up(block.num_rows, kTileRows);
    prob_tiles<kSoftcap>(call_, scratch_, view, rows, num_rows, keys_.padded_keys, score_stride_);

    RowRange rows_of_tile[kMostKeys / kTileRows];
    fill_row_ranges(view, keys_.padded_keys, rows_of_tile);
    if (needs_.grad_out) {
      const bool is_finite = pack_grad_out<Element>(params_, block, scratch_.grad_out);
      if (params_.grad_value != nullptr) {
        if (is_finite) {
          add_to_keys(scratch_.prob, score_stride_, scratch_.grad_out, value_stride_,
                      padded_dim(call_.head_dim_v), keys_.padded_keys, rows_of_tile,
                      scratch_.value_sums);
        } else {
          add_seen_values(view, rows_of_tile);
        }
      }
    }
    if (needs_dots_ || needs_.bias_sums || needs_.influence_sums) {
      add_grad_scores(block, view, rows, rows_of_tile, visit);
    }
  }

  void prepare_view(const RowBlock& block, View& view) const {
    fill_view(params_, keys_, block, view);
    view.bias_hides = bias_hides_ || call_.attn_bias != nullptr;
    view.bias = scratch_.key_bias;
    view.bias_stride = 0;
    if (call_.attn_bias != nullptr) {
      pack_dense_bias(call_, keys_, block, scratch_.key_bias, score_stride_, scratch_.addends);
      view.bias = scratch_.addends;
      view.bias_stride = score_stride_;
    }
  }

  // add_to_keys for grad_value where a NaN that reached a row must not reach, as 0 * NaN, the keys
  // that the row does not see. Adds in the same order.
  void add_seen_values(const View& view, const RowRange* rows_of_tile) const {
    for (std::int64_t k = 0; k < keys_.num_keys; ++k) {
      const RowRange range = rows_of_tile[k / kTileRows];
      for (std::int64_t d = 0; d < padded_dim(call_.head_dim_v); d += kLanes) {
        VecF sum = broadcast(0.f);
        for (std::int64_t row = range.begin; row < range.end; ++row) {
          const bool is_seen = k >= view.begin[row] && k < view.end[row] &&
                               view.bias[row * view.bias_stride + k] != -kInfinity;
          if (!is_seen) continue;
          const VecF prob = broadcast(scratch_.prob[row * score_stride_ + k]);
          sum = fmadd(prob, load(scratch_.grad_out + row * value_stride_ + d), sum);
        }
        float* at = scratch_.value_sums + k * value_stride_ + d;
        store(at, load(at) + sum);
      }
    }
  }

  void add_grad_scores(const RowBlock& block, const View& view, const RowFactors& rows,
                       const RowRange* rows_of_tile, std::int64_t visit) {
    if (needs_.grad_flow) pack_grad_flow(params_, block, scratch_.grad_flow);
    clear(scratch_.block_bias, plan_.keys_per_task);
    clear(scratch_.block_influence, call_.channels * plan_.keys_per_task);
    const std::int64_t num_rows = round_up(block.num_rows, kTileRows);
    grad_score_tiles<kSoftcap>(call_, scratch_, view, rows, needs_, num_rows, keys_.padded_keys,
                               plan_.keys_per_task);
    add(scratch_.block_bias, plan_.keys_per_task, scratch_.bias_sums);
    add(scratch_.block_influence, call_.channels * plan_.keys_per_task, scratch_.influence_sums);
    if (params_.grad_key != nullptr) {
      add_to_keys(scratch_.grad_score, score_stride_, finite_queries(), key_stride_,
                  padded_dim(call_.head_dim), keys_.padded_keys, rows_of_tile, scratch_.key_sums);
    }
    if (params_.grad_query != nullptr) {
      std::int32_t* visits = shared_.visits + row_task_of(params_, plan_, block);
      while (__atomic_load_n(visits, __ATOMIC_ACQUIRE) != visit) pause_();
      add_to_rows(scratch_.grad_score, score_stride_, scratch_.key, key_stride_, call_.head_dim,
                  block.num_rows, view.any, call_.scale,
                  shared_.query + first_row_of(params_, block) * call_.head_dim);
      __atomic_store_n(visits, static_cast<std::int32_t>(visit + 1), __ATOMIC_RELEASE);
    }
  }

  static void add(const float* numbers, std::int64_t count, float* sums) {
    for (std::int64_t i = 0; i < count; ++i) sums[i] += numbers[i];
  }

  const float* finite_queries() const {
    const std::int64_t padded = padded_dim(call_.head_dim);
    bool all_finite = true;
    for (std::int64_t row = 0; row < kBlockM; ++row) {
      all_finite &= is_finite(scratch_.query + row * key_stride_, padded);
    }
    if (all_finite) return scratch_.query;
    for (std::int64_t row = 0; row < kBlockM; ++row) {
      float* target = scratch_.finite_query + row * key_stride_;
      __builtin_memcpy(target, scratch_.query + row * key_stride_,
                       static_cast<std::size_t>(padded) * sizeof(float));
      make_finite(target, padded);
    }
    return scratch_.finite_query;
  }

  // The part of a head or of the heads of the task; its sums begin anew.
  void write_bias(std::int64_t part) {
    if (params_.grad_key_bias == nullptr) return;
    float* target = shared_.key_bias +
                    (keys_.batch_idx * key_bias_parts(params_) + part) * call_.seqlen_k +
                    keys_.k_begin;
    for (std::int64_t k = 0; k < keys_.num_keys; ++k) target[k] = scratch_.bias_sums[k];
    clear(scratch_.bias_sums, plan_.keys_per_task);
  }

  void write_keys() const {
    const std::int64_t head = keys_.batch_idx * call_.num_kv_heads + keys_.kv_head_idx;
    const std::int64_t first_key = head * call_.seqlen_k + keys_.k_begin;
    using Storage = typename Element::Storage;
    for (std::int64_t k = 0; k < keys_.num_keys; ++k) {
      if (params_.grad_key != nullptr) {
        write_row<Element>(
            scratch_.key_sums + k * key_stride_, call_.scale, call_.head_dim,
            static_cast<Storage*>(params_.grad_key) + (first_key + k) * call_.head_dim);
      }
      if (params_.grad_value != nullptr) {
        write_row<Element>(
            scratch_.value_sums + k * value_stride_, 1.f, call_.head_dim_v,
            static_cast<Storage*>(params_.grad_value) + (first_key + k) * call_.head_dim_v);
      }
    }
    if (params_.grad_influence == nullptr) return;
    for (std::int64_t channel = 0; channel < call_.channels; ++channel) {
      float* target =
          shared_.influence + (head * call_.channels + channel) * call_.seqlen_k + keys_.k_begin;
      const float* sums = scratch_.influence_sums + channel * plan_.keys_per_task;
      for (std::int64_t k = 0; k < keys_.num_keys; ++k) target[k] = sums[k];
    }
  }

  static constexpr std::int64_t kMostKeys = 128;  // of a task

  const BackwardParams& params_;
  const AttentionParams& call_;
  const BackwardPlan& plan_;
  const Scratch scratch_;
  const Shared shared_;
  void (*const pause_)();
  const std::int64_t key_stride_;
  const std::int64_t value_stride_;
  const std::int64_t score_stride_;
  KeyBlock keys_;
  TileNeeds needs_;
  bool needs_dots_;
  bool bias_hides_ = false;
};

}  // namespace backward
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
