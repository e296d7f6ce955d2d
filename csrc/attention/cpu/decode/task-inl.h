// SPDX-License-Identifier: MIT
// Decoding: a kv head whose group has few rows, as when tokens are generated one at a time.
//
// The time goes into reading K and V. So nothing is packed, rows are converted in registers, all
// heads of a group share them, what comes next is prefetched, and the keys are split over tasks.
#pragma once

#include "../../static_dispatch.h"
#include "../rows-inl.h"
#include "plan-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace decode {

template <class Element>
KeyRows<Element> key_rows(const void* base, const RowStrides& strides, std::int64_t num_elements,
                          const Group& group) {
  return {row_of<Element>(base, strides, group.batch_idx, group.kv_head_idx, 0), strides.row,
          num_elements};
}

template <class Element>
KeyRows<Element> from_key(KeyRows<Element> rows, std::int64_t k_begin) {
  rows.first += k_begin * rows.stride;
  return rows;
}

// Numbers of the keys of a block, one vector after another: `source` itself where it lies so, or
// a copy in `buffer`, with zeros in place of the keys beside the view.
inline const float* contiguous_keys(const float* source, std::int64_t stride, const BlockView& view,
                                    float* buffer) {
  if (stride == 1 && view.begin % kLanes == 0 && view.end % kLanes == 0) return source;
  for (std::int64_t k = view.begin / kLanes * kLanes; k < round_up(view.end, kLanes); ++k) {
    buffer[k] = view.begin <= k && k < view.end ? source[k * stride] : 0.f;
  }
  return buffer;
}

// A tile of one row, for what rows-inl.h does to rows.
inline const TileRows& single_row(const TileRows& tile, std::int64_t row, TileRows& target) {
  target.num_rows = 1;
  target.head_idx[0] = tile.head_idx[row];
  target.q_idx[0] = tile.q_idx[row];
  return target;
}

// Writes the rows of a tile.
template <class Element>
void write_rows(const AttentionParams& params, const Plan& plan, const Group& group,
                const TileRows& tile, const State& state, const Scratch& scratch) {
  for (std::int64_t row = 0; row < tile.num_rows; ++row) {
    for (std::int64_t channel = 0; channel < params.channels; ++channel) {
      scratch.row_influence[channel] = state.influence[channel * kLanes + row];
    }
    const float* out = state.out + row * plan.padded_head_dim_v;
    for (std::int64_t d = 0; d < plan.padded_head_dim_v; d += kPairElements) {
      for (std::int64_t i = 0; i < kPairElements; ++i) {
        scratch.row_out[d + Pairs<Element>::element_of_lane(i >= kLanes, i % kLanes)] = out[d + i];
      }
    }
    const TileState row_state{state.row_max + row, state.row_sum + row, scratch.row_influence,
                              scratch.row_out};
    write_results<Element, VectorMath>(params, 1, group, single_row(tile, row, *scratch.single_row),
                                       row_state);
  }
}

// One task, from its first key block to its last.
template <class Element, int kRows>
class Task {
 public:
  Task(const AttentionParams& params, const Plan& plan, std::int64_t task_idx, float* scratch,
       float* partials)
      : params_(params),
        plan_(plan),
        group_(group_of(params, plan, task_idx / plan.key_splits)),
        scratch_(layout_scratch(params, plan, scratch)),
        states_(plan.key_splits > 1
                    ? partials + task_idx * plan.tiles_per_task * plan.tile_state_floats
                    : scratch_.states),
        key_(key_rows<Element>(params.key, params.key_strides, params.head_dim, group_)),
        value_(key_rows<Element>(params.value, params.value_strides, params.head_dim_v, group_)) {
    const std::int64_t split_begin = task_idx % plan.key_splits * plan.keys_per_split;
    keys_ = {split_begin, min_of(split_begin + plan.keys_per_split, params.seqlen_k)};
  }

  void run() {
    const KeyRange seen = prepare_tiles();
    const std::int64_t first_block = seen.begin / kBlockN * kBlockN;
    for (std::int64_t k_begin = first_block; k_begin < seen.end; k_begin += kBlockN) {
      const std::int64_t k_end = min_of(k_begin + kBlockN, keys_.end);
      for (std::int64_t tile = 0; tile < group_.num_tiles; ++tile) add_block(tile, k_begin, k_end);
    }
    if (plan_.key_splits > 1) return;
    for (std::int64_t tile = 0; tile < group_.num_tiles; ++tile) {
      write_rows<Element>(params_, plan_, group_, scratch_.tiles[tile], state(tile), scratch_);
    }
  }

 private:
  using Dot = DotPairs<Element>;
  using Query = typename Dot::Pair;
  static constexpr std::int64_t kElementSize = sizeof(typename Element::Storage);

  State state(std::int64_t tile_idx) const {
    return state_at(states_ + tile_idx * plan_.tile_state_floats, params_.channels);
  }

  Query* query(std::int64_t tile_idx, std::int64_t row) const {
    static_assert(sizeof(Query) <= kPairElements * sizeof(float));
    return reinterpret_cast<Query*>(scratch_.queries) +
           (tile_idx * kRows + row) * num_pairs(params_.head_dim);
  }

  // Returns the keys of this task that any of its rows sees.
  KeyRange prepare_tiles() {
    KeyRange seen{params_.seqlen_k, 0};
    for (std::int64_t tile_idx = 0; tile_idx < group_.num_tiles; ++tile_idx) {
      TileRows& tile = scratch_.tiles[tile_idx];
      fill_tile_rows(params_, plan_, group_, tile_idx, tile);
      for (int row = 0; row < kRows; ++row) load_query(tile, row, query(tile_idx, row));
      float* memory = state(tile_idx).row_max;
      for (std::int64_t i = 0; i < plan_.tile_state_floats; ++i) {
        memory[i] = i < kLanes ? -kInfinity : 0.f;
      }
      seen.begin = min_of(seen.begin, tile.visible_to_any.begin);
      seen.end = max_of(seen.end, tile.visible_to_any.end);
    }
    return intersection(seen, keys_);
  }

  void load_query(const TileRows& tile, int row, Query* target) const {
    const auto* source = row_of<Element>(params_.query, params_.query_strides, group_.batch_idx,
                                         tile.head_idx[row], tile.q_idx[row]);
    const std::int64_t whole_pairs = params_.head_dim / kPairElements;
    for (std::int64_t pair = 0; pair < whole_pairs; ++pair) {
      target[pair] = Dot::load(source + pair * kPairElements);
    }
    const std::int64_t remaining = params_.head_dim % kPairElements;
    if (remaining != 0) {
      target[whole_pairs] = Dot::load_part(source + whole_pairs * kPairElements, remaining);
    }
  }

  void add_block(std::int64_t tile_idx, std::int64_t k_begin, std::int64_t k_end) {
    const TileRows& tile = scratch_.tiles[tile_idx];
    std::int32_t row_limits[2 * kRows];
    const BlockView view = view_block(tile, kRows, k_begin, k_end, row_limits);
    if (view.begin >= view.end) return;
    const float* biases[kRows];
    find_biases(tile, view, k_begin, k_end, biases);
    const State tile_state = state(tile_idx);
    float* scores = scratch_.scores;

    Prefetcher with_keys, with_values;
    if (tile_idx == 0) start_prefetching(k_begin, k_end, with_keys, with_values);
    dot_rows<Element, kRows>(from_key(key_, k_begin), query(tile_idx, 0), view.begin, view.end,
                             scores, with_keys);
    VecF block_max[kRows];
    const ScoreFactors factors = score_factors(params_.scale, params_.softcap, VectorMath::kUnit);
    const bool masked =
        view.row_begin != nullptr || view.begin % kLanes != 0 || view.end % kLanes != 0;
    with_bool(params_.softcap != 0.f, [&](auto has_softcap) {
      with_bool(masked, [&](auto is_masked) {
        score_rows<kRows, has_softcap.value, is_masked.value>(view, biases, factors, scores,
                                                              block_max);
      });
    });
    float rescale[kLanes];
    softmax_rows<kRows>(view.begin, view.end, block_max, scores, tile_state, rescale);
    for (std::int64_t channel = 0; channel < params_.channels; ++channel) {
      const float* source = params_.influence + group_.batch_idx * params_.influence_batch_stride +
                            channel * params_.influence_channel_stride +
                            k_begin * params_.influence_key_stride;
      const float* influence =
          contiguous_keys(source, params_.influence_key_stride, view, scratch_.influence);
      influence_rows<kRows>(influence, view.begin, view.end, scores, rescale,
                            tile_state.influence + channel * kLanes);
    }
    value_rows<Element, kRows>(from_key(value_, k_begin), view.begin, view.end, scores, rescale,
                               tile_state.out, with_values);
  }

  // What to prefetch while the keys of a block are used, and while its values are.
  //
  // Several rows of 16-bit elements take longer over a block than memory needs to bring the next:
  // there K and V take turns, each brought in while the other is used. Measured at D = 128 and
  // 32768 keys: 3 % faster than a distance of 12 KB with four rows of bf16, 5 % slower with fp32.
  void start_prefetching(std::int64_t k_begin, std::int64_t k_end, Prefetcher& with_keys,
                         Prefetcher& with_values) const {
    constexpr std::int64_t kFewRows = 2;
    // Far enough for the memory to answer, near enough to stay in the second-level cache.
    constexpr std::int64_t kDistanceBytes = 12 * 1024;
    if (kRows > kFewRows && kElementSize == 2) {
      with_keys = prefetcher(value_, k_begin, k_end);
      with_values = prefetcher(key_, k_end, k_end + kBlockN);
      return;
    }
    const auto ahead = [&](const KeyRows<Element>& rows) {
      const std::int64_t row_bytes = max_of(1, rows.num_elements * kElementSize);
      const std::int64_t distance = ceil_div(kDistanceBytes, row_bytes);
      return prefetcher(rows, k_begin + distance, k_end + distance);
    };
    with_keys = ahead(key_);
    with_values = ahead(value_);
  }

  Prefetcher prefetcher(const KeyRows<Element>& rows, std::int64_t k_begin,
                        std::int64_t k_end) const {
    const std::int64_t num_rows = min_of(k_end, params_.seqlen_k) - k_begin;
    if (num_rows <= 0) return Prefetcher();
    return Prefetcher(from_key(rows, k_begin).first, rows.stride * kElementSize,
                      rows.num_elements * kElementSize, num_rows);
  }

  // What is added to the scores of each row. Zeros without a bias, so that no bias and a bias of 0
  // run the same code and give the same bits.
  void find_biases(const TileRows& tile, const BlockView& view, std::int64_t k_begin,
                   std::int64_t k_end, const float* (&biases)[kRows]) const {
    for (int row = 0; row < kRows; ++row) {
      const bool is_new = row == 0 || (params_.key_bias_head_stride != 0 &&
                                       tile.head_idx[row] != tile.head_idx[row - 1]);
      float* buffer = scratch_.biases + row * kBlockN;
      if (params_.attn_bias != nullptr) {
        if (is_new) {
          pack_key_bias<VectorMath>(params_, group_.batch_idx, tile.head_idx[row], k_begin,
                                    k_end - k_begin, scratch_.key_bias);
        }
        pack_row_addends<VectorMath>(params_, group_.batch_idx, tile.head_idx[row], tile.q_idx[row],
                                     k_begin, k_end - k_begin, scratch_.key_bias, buffer);
        biases[row] = buffer;
      } else if (!is_new) {
        biases[row] = biases[row - 1];
      } else if (params_.key_bias == nullptr) {
        for (std::int64_t k = 0; k < kBlockN; ++k) buffer[k] = 0.f;
        biases[row] = buffer;
      } else {
        const float* source = params_.key_bias + group_.batch_idx * params_.key_bias_batch_stride +
                              tile.head_idx[row] * params_.key_bias_head_stride +
                              k_begin * params_.key_bias_key_stride;
        biases[row] = contiguous_keys(source, params_.key_bias_key_stride, view, buffer);
      }
    }
  }

  const AttentionParams& params_;
  const Plan& plan_;
  const Group group_;
  const Scratch scratch_;
  float* const states_;
  const KeyRows<Element> key_;
  const KeyRows<Element> value_;
  KeyRange keys_;
};

template <class Element, int kRows>
void run_rows(const AttentionParams& params, const Plan& plan, std::int64_t task_idx,
              float* scratch, float* partials) {
  if (plan.rows_per_tile == kRows) {
    return Task<Element, kRows>(params, plan, task_idx, scratch, partials).run();
  }
  if constexpr (kRows < kMostRows) {
    run_rows<Element, kRows + 1>(params, plan, task_idx, scratch, partials);
  }
}

inline void run_task(const AttentionParams& params, const Plan& plan, std::int64_t task_idx,
                     float* scratch, float* partials) {
  with_element_type(params.element_type, [&](auto element_type) {
    using Element = typename ElementOf<element_type.value>::Type;
    run_rows<Element, 1>(params, plan, task_idx, scratch, partials);
  });
}

// Adds the state `other` of the same rows to `state`.
inline void merge_states(const AttentionParams& params, const Plan& plan, const State& state,
                         const State& other) {
  const VecF own_max = load(state.row_max);
  const VecF other_max = load(other.row_max);
  const VecF new_max = max_or_second(other_max, own_max);
  const VecF own_factor = rescale_factor<VectorMath>(own_max, new_max);
  const VecF other_factor = rescale_factor<VectorMath>(other_max, new_max);
  store(state.row_max, new_max);
  const auto add = [](float* own, const float* added, VecF own_scale, VecF added_scale) {
    store(own, fmadd(load(added), added_scale, load(own) * own_scale));
  };
  // row_sum and influence follow one another.
  for (std::int64_t i = 0; i < 1 + params.channels; ++i) {
    add(state.row_sum + i * kLanes, other.row_sum + i * kLanes, own_factor, other_factor);
  }
  for (std::int64_t row = 0; row < plan.rows_per_tile; ++row) {
    const std::int64_t begin = row * plan.padded_head_dim_v;
    for (std::int64_t d = begin; d < begin + plan.padded_head_dim_v; d += kLanes) {
      add(state.out + d, other.out + d, broadcast(own_factor[row]), broadcast(other_factor[row]));
    }
  }
}

inline void merge_group(const AttentionParams& params, const Plan& plan, std::int64_t group_idx,
                        float* scratch_memory, float* partials) {
  const Group group = group_of(params, plan, group_idx);
  const Scratch scratch = layout_scratch(params, plan, scratch_memory);
  const auto state_of = [&](std::int64_t split, std::int64_t tile_idx) {
    const std::int64_t task_idx = group_idx * plan.key_splits + split;
    return state_at(partials + (task_idx * plan.tiles_per_task + tile_idx) * plan.tile_state_floats,
                    params.channels);
  };
  for (std::int64_t tile_idx = 0; tile_idx < group.num_tiles; ++tile_idx) {
    TileRows& tile = scratch.tiles[0];
    fill_tile_rows(params, plan, group, tile_idx, tile);
    const State state = state_of(0, tile_idx);
    for (std::int64_t split = 1; split < plan.key_splits; ++split) {
      merge_states(params, plan, state, state_of(split, tile_idx));
    }
    with_element_type(params.element_type, [&](auto element_type) {
      using Element = typename ElementOf<element_type.value>::Type;
      write_rows<Element>(params, plan, group, tile, state, scratch);
    });
  }
}

constexpr Routine kRoutine{make_plan, run_task, merge_group};

}  // namespace decode
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
