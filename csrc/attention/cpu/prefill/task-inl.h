// SPDX-License-Identifier: MIT
// Prefill: many rows, so that packing K and V pays. Lanes are rows.
#pragma once

#include "../../static_dispatch.h"
#include "pack-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace prefill {

inline void clear_state(const Plan& plan, const TileState& state) {
  const std::int64_t rows = plan.rows_per_tile;
  for (std::int64_t row = 0; row < rows; ++row) state.row_max[row] = -kInfinity;
  for (std::int64_t i = rows; i < plan.tile_state_floats; ++i) state.row_max[i] = 0.f;
}

// One task, from its first key block to its last.
template <class Element, int kVectors, bool kSoftcap>
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
                    : scratch_.states) {
    const std::int64_t split_begin = task_idx % plan.key_splits * plan.keys_per_split;
    keys_ = {split_begin, min_of(split_begin + plan.keys_per_split, params.seqlen_k)};
  }

  void run() {
    const TileSession<kHasTiles<Element>> session;
    const KeyRange seen = prepare_tiles();
    const std::int64_t first_block = seen.begin / kBlockN * kBlockN;
    for (std::int64_t k_begin = first_block; k_begin < seen.end; k_begin += kBlockN) {
      const std::int64_t k_end = min_of(k_begin + kBlockN, seen.end);
      add_block_to_tiles(k_begin, k_end, min_of(k_end + kBlockN, seen.end));
    }
    if (plan_.key_splits == 1) write_tiles();
  }

 private:
  static constexpr std::int64_t kRows = kVectors * kLanes;

  TileState state(std::int64_t tile_idx) const {
    return tile_state(states_ + tile_idx * plan_.tile_state_floats, kRows, params_.channels);
  }

  float* query_t(std::int64_t tile_idx) const {
    return scratch_.query_t + tile_idx * row_floats(params_.head_dim) * kRows;
  }

  // Returns the keys of this task that any of its rows sees.
  KeyRange prepare_tiles() {
    KeyRange seen{params_.seqlen_k, 0};
    for (std::int64_t tile_idx = 0; tile_idx < group_.num_tiles; ++tile_idx) {
      TileRows& tile = scratch_.tiles[tile_idx];
      fill_tile_rows(params_, plan_, group_, tile_idx, tile);
      prefetch_queries<Element>(params_, group_, tile);
      seen.begin = min_of(seen.begin, tile.visible_to_any.begin);
      seen.end = max_of(seen.end, tile.visible_to_any.end);
    }
    for (std::int64_t tile_idx = 0; tile_idx < group_.num_tiles; ++tile_idx) {
      const TileRows& tile = scratch_.tiles[tile_idx];
      pack_queries<Element>(params_, kRows, group_, tile, query_t(tile_idx));
      clear_state(plan_, state(tile_idx));
    }
    return intersection(seen, keys_);
  }

  // Meanwhile the next block, up to `next_end`, is brought near: its keys and, where they are
  // packed, its values. Where values are read in place those of this block are, while it is scored.
  void add_block_to_tiles(std::int64_t k_begin, std::int64_t k_end, std::int64_t next_end) {
    const std::int64_t num_keys = k_end - k_begin;
    const KeyBlock block = pack_keys<Element>(params_, plan_, group_, k_begin, num_keys, scratch_);
    const bool heads_share_bias = params_.key_bias_head_stride == 0;
    std::int64_t packed_head = -1;
    bool bias_hides = false;
    const bool packs_values = block.value == scratch_.value;
    for (std::int64_t tile_idx = 0; tile_idx < group_.num_tiles; ++tile_idx) {
      const UpcomingRows<Element> keys =
          upcoming(params_.key, params_.key_strides, params_.head_dim,
                   part_of({k_end, next_end}, tile_idx), plan_.padded_head_dim_v / kValueDims);
      const KeyRange values_range = packs_values    ? part_of({k_end, next_end}, tile_idx)
                                    : tile_idx == 0 ? KeyRange{k_begin, k_end}
                                                    : KeyRange{k_end, k_end};
      const UpcomingRows<Element> values =
          upcoming(params_.value, params_.value_strides, params_.head_dim_v, values_range,
                   ceil_div(num_keys, kDotKeys));
      const TileRows& tile = scratch_.tiles[tile_idx];
      std::int32_t row_limits[2 * kRows];
      BlockView view = view_block(tile, kRows, k_begin, k_end, row_limits);
      if (view.begin >= view.end) continue;
      if (params_.attn_bias != nullptr || !(heads_share_bias || tile.has_one_head)) {
        pack_addends<BitsMath>(params_, kRows, group_.batch_idx, tile, k_begin, num_keys,
                               scratch_.key_bias, scratch_.addends);
        packed_head = -1;  // key_bias has been used
        view.addends = scratch_.addends;
        add_block<Element, kVectors, kSoftcap, true>(params_, plan_.padded_head_dim_v, block, view,
                                                     query_t(tile_idx), state(tile_idx),
                                                     scratch_.scores, values, keys);
        continue;
      }
      const std::int64_t head = heads_share_bias ? 0 : tile.head_idx[0];
      if (packed_head != head) {
        bias_hides = pack_key_bias<BitsMath>(params_, group_.batch_idx, head, k_begin, num_keys,
                                             scratch_.key_bias);
        packed_head = head;
      }
      view.key_bias = scratch_.key_bias;
      if (!bias_hides) {
        view.clear_begin = max_of(tile.visible_to_all.begin - k_begin, view.begin);
        view.clear_end = min_of(tile.visible_to_all.end - k_begin, view.end);
      }
      add_block<Element, kVectors, kSoftcap, false>(params_, plan_.padded_head_dim_v, block, view,
                                                    query_t(tile_idx), state(tile_idx),
                                                    scratch_.scores, values, keys);
    }
  }

  // The part of a range that a tile looks after.
  KeyRange part_of(KeyRange range, std::int64_t tile_idx) const {
    const std::int64_t num_keys = range.end - range.begin;
    return {range.begin + num_keys * tile_idx / group_.num_tiles,
            range.begin + num_keys * (tile_idx + 1) / group_.num_tiles};
  }

  UpcomingRows<Element> upcoming(const void* base, const RowStrides& strides,
                                 std::int64_t num_elements, KeyRange range,
                                 std::int64_t num_steps) const {
    return {row_of<Element>(base, strides, group_.batch_idx, group_.kv_head_idx, range.begin),
            strides.row, num_elements, range.end - range.begin, num_steps};
  }

  void write_tiles() {
    for (std::int64_t tile_idx = 0; tile_idx < group_.num_tiles; ++tile_idx) {
      write_results<Element, BitsMath>(params_, kRows, group_, scratch_.tiles[tile_idx],
                                       state(tile_idx));
    }
  }

  const AttentionParams& params_;
  const Plan& plan_;
  const Group group_;
  const Scratch scratch_;
  float* const states_;
  KeyRange keys_;
};

template <class Element, int kVectors>
void run_vectors(const AttentionParams& params, const Plan& plan, std::int64_t task_idx,
                 float* scratch, float* partials) {
  if (vectors_of(plan) == kVectors) {
    return with_bool(params.softcap != 0.f, [&](auto has_softcap) {
      Task<Element, kVectors, has_softcap.value>(params, plan, task_idx, scratch, partials).run();
    });
  }
  if constexpr (kVectors > kFewestVectors) {
    run_vectors<Element, kVectors - 1>(params, plan, task_idx, scratch, partials);
  }
}

inline void run_task(const AttentionParams& params, const Plan& plan, std::int64_t task_idx,
                     float* scratch, float* partials) {
  with_element_type(params.element_type, [&](auto element_type) {
    using Element = typename ElementOf<element_type.value>::Type;
    run_vectors<Element, kMostVectors>(params, plan, task_idx, scratch, partials);
  });
}

// Adds the state `other` of the same rows to `state`.
inline void merge_states(const Plan& plan, const TileState& state, const TileState& other) {
  const std::int64_t rows = plan.rows_per_tile;
  for (std::int64_t lane = 0; lane < rows; lane += kLanes) {
    const VecF own_max = load(state.row_max + lane);
    const VecF other_max = load(other.row_max + lane);
    const VecF new_max = max_or_second(other_max, own_max);
    const VecF own_factor = rescale_factor<BitsMath>(own_max, new_max);
    const VecF other_factor = rescale_factor<BitsMath>(other_max, new_max);
    store(state.row_max + lane, new_max);
    // row_sum, influence and out follow one another, and all scale alike.
    for (std::int64_t i = rows + lane; i < plan.tile_state_floats; i += rows) {
      const VecF own = load(state.row_max + i) * own_factor;
      store(state.row_max + i, fmadd(load(other.row_max + i), other_factor, own));
    }
  }
}

inline void merge_group(const AttentionParams& params, const Plan& plan, std::int64_t group_idx,
                        float* scratch_memory, float* partials) {
  const Group group = group_of(params, plan, group_idx);
  const Scratch scratch = layout_scratch(params, plan, scratch_memory);
  const std::int64_t rows = plan.rows_per_tile;
  const auto state_of = [&](std::int64_t split, std::int64_t tile_idx) {
    const std::int64_t task_idx = group_idx * plan.key_splits + split;
    float* memory = partials + (task_idx * plan.tiles_per_task + tile_idx) * plan.tile_state_floats;
    return tile_state(memory, rows, params.channels);
  };
  for (std::int64_t tile_idx = 0; tile_idx < group.num_tiles; ++tile_idx) {
    TileRows& tile = scratch.tiles[0];
    fill_tile_rows(params, plan, group, tile_idx, tile);
    const TileState state = state_of(0, tile_idx);
    for (std::int64_t split = 1; split < plan.key_splits; ++split) {
      merge_states(plan, state, state_of(split, tile_idx));
    }
    with_element_type(params.element_type, [&](auto element_type) {
      using Element = typename ElementOf<element_type.value>::Type;
      write_results<Element, BitsMath>(params, rows, group, tile, state);
    });
  }
}

constexpr Routine kRoutine{make_plan, run_task, merge_group};

}  // namespace prefill
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
