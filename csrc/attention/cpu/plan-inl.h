// SPDX-License-Identifier: MIT
// How a call is cut into tasks and tiles, by prefill and decoding alike.
#pragma once

#include "../score_mod.h"
#include "kernel.h"
#include "simd-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {

constexpr std::int64_t kBlockN = 128;  // keys of a block
#if defined(GUIDE_CPU_AMX)
constexpr int kMostVectors = 32 / kLanes;  // of rows in a tile of prefill: two tiles of 16 rows
constexpr int kFewestVectors = kMostVectors;
#else
constexpr int kMostVectors = kWideVectors;
constexpr int kFewestVectors = kNarrowVectors;
#endif
constexpr std::int64_t kMaxRows = kMostVectors * kLanes;
static_assert(kBlockN % kDotKeys == 0, "a block is whole micro-tiles");
static_assert(kLanes % kValueDims == 0, "a micro-tile lies within a strip of V");

// The rows of a tile. Lanes past the last row repeat it and are never written out.
struct TileRows {
  std::int64_t num_rows;
  std::int64_t head_idx[kMaxRows];
  std::int64_t q_idx[kMaxRows];
  KeyRange visible[kMaxRows];
  KeyRange visible_to_any;
  KeyRange visible_to_all;
  bool has_one_head;
};

// Hands out parts of a memory one after another, each on a cache line; null pointers from a null
// memory, to learn the size.
class Carver {
 public:
  explicit Carver(float* base) : base_(base) {}

  float* take(std::int64_t num_floats) {
    constexpr std::int64_t kLineFloats = 16;
    const std::int64_t offset = used_;
    used_ += round_up(num_floats, kLineFloats);
    return base_ == nullptr ? nullptr : base_ + offset;
  }

  TileRows* take_tiles(std::int64_t num_tiles) {
    constexpr std::int64_t kTileFloats = ceil_div(sizeof(TileRows), sizeof(float));
    return reinterpret_cast<TileRows*>(take(num_tiles * kTileFloats));
  }

  std::int64_t used() const { return used_; }

 private:
  float* base_;
  std::int64_t used_ = 0;
};

// Cuts the keys where batch, heads and queries give few tasks, as in decoding, and counts the
// tasks. No split has fewer than `fewest_keys`. The plan knows its tiles and queries_per_task
// already.
inline void cut_into_tasks(const AttentionParams& params, std::int64_t fewest_keys, Plan& plan) {
  constexpr std::int64_t kEnoughTasks = 64;
  plan.query_blocks = ceil_div(params.seqlen_q, plan.queries_per_task);
  plan.tiles_per_task = ceil_div(plan.queries_per_task * params.group_size, plan.rows_per_tile);
  plan.groups = params.batch * params.num_kv_heads * plan.query_blocks;

  const std::int64_t most_splits = params.seqlen_k / fewest_keys;
  const std::int64_t wanted_splits =
      max_of(1, min_of(most_splits, ceil_div(kEnoughTasks, plan.groups)));
  plan.keys_per_split =
      max_of(kBlockN, round_up(ceil_div(params.seqlen_k, wanted_splits), kBlockN));
  plan.key_splits = max_of(1, ceil_div(params.seqlen_k, plan.keys_per_split));
  plan.tasks = plan.groups * plan.key_splits;
  plan.partial_floats =
      plan.key_splits > 1 ? plan.tasks * plan.tiles_per_task * plan.tile_state_floats : 0;
}

// Batch, heads and queries that a group of tasks works on.
struct Group {
  std::int64_t batch_idx;
  std::int64_t kv_head_idx;
  std::int64_t q_begin;
  std::int64_t num_queries;
  std::int64_t num_tiles;
};

// Late queries come first: under a causal mask they see the most keys, and the long tasks should
// not be the last to start.
inline Group group_of(const AttentionParams& params, const Plan& plan, std::int64_t group_idx) {
  const std::int64_t heads = params.batch * params.num_kv_heads;
  const std::int64_t q_block = plan.query_blocks - 1 - group_idx / heads;
  const std::int64_t head = group_idx % heads;
  Group group{};
  group.batch_idx = head / params.num_kv_heads;
  group.kv_head_idx = head % params.num_kv_heads;
  group.q_begin = q_block * plan.queries_per_task;
  group.num_queries = min_of(plan.queries_per_task, params.seqlen_q - group.q_begin);
  group.num_tiles = ceil_div(group.num_queries * params.group_size, plan.rows_per_tile);
  return group;
}

inline KeyRange intersection(KeyRange a, KeyRange b) {
  return {max_of(a.begin, b.begin), min_of(a.end, b.end)};
}

// Rows run through the queries of one head, then of the next.
inline void fill_tile_rows(const AttentionParams& params, const Plan& plan, const Group& group,
                           std::int64_t tile_idx, TileRows& tile) {
  const std::int64_t first_row = tile_idx * plan.rows_per_tile;
  const std::int64_t last_row = params.group_size * group.num_queries - 1;
  tile.num_rows = min_of(plan.rows_per_tile, last_row + 1 - first_row);
  tile.visible_to_any = {params.seqlen_k, 0};
  tile.visible_to_all = {0, params.seqlen_k};
  for (std::int64_t lane = 0; lane < plan.rows_per_tile; ++lane) {
    const std::int64_t row = min_of(first_row + lane, last_row);
    tile.head_idx[lane] = group.kv_head_idx * params.group_size + row / group.num_queries;
    tile.q_idx[lane] = group.q_begin + row % group.num_queries;
    const KeyRange visible =
        visible_keys(params, position_of(params, group.batch_idx, tile.q_idx[lane]));
    tile.visible[lane] = visible;
    if (visible.begin < visible.end) {
      tile.visible_to_any.begin = min_of(tile.visible_to_any.begin, visible.begin);
      tile.visible_to_any.end = max_of(tile.visible_to_any.end, visible.end);
    }
    tile.visible_to_all = intersection(tile.visible_to_all, visible);
  }
  tile.has_one_head = tile.head_idx[0] == tile.head_idx[plan.rows_per_tile - 1];
}

// What a tile sees of a block, and what is added to its scores.
struct BlockView {
  std::int64_t begin;  // keys of the block that any row sees: [begin, end)
  std::int64_t end;
  std::int64_t clear_begin;  // keys that all rows see and no bias hides: [clear_begin, clear_end)
  std::int64_t clear_end;
  const std::int32_t* row_begin;  // [rows], keys of the block that a row sees; null: all rows all
  const std::int32_t* row_end;
  const float* key_bias;  // [kBlockN], for all rows, bits
  const float* addends;   // [kBlockN, rows], instead of key_bias; null: none
};

// What the tile sees of the keys [k_begin, k_end). `row_limits` gets the limits of each row where
// they differ, [2, rows].
inline BlockView view_block(const TileRows& tile, std::int64_t rows, std::int64_t k_begin,
                            std::int64_t k_end, std::int32_t* row_limits) {
  const KeyRange seen = intersection(tile.visible_to_any, {k_begin, k_end});
  BlockView view{};
  view.begin = seen.begin - k_begin;
  view.end = seen.end - k_begin;
  if (tile.visible_to_all.begin <= seen.begin && seen.end <= tile.visible_to_all.end) return view;
  const auto within_block = [&](std::int64_t k_idx) {
    return static_cast<std::int32_t>(max_of(k_begin, min_of(k_idx, k_end)) - k_begin);
  };
  for (std::int64_t row = 0; row < rows; ++row) {
    row_limits[row] = within_block(tile.visible[row].begin);
    row_limits[rows + row] = within_block(tile.visible[row].end);
  }
  view.row_begin = row_limits;
  view.row_end = row_limits + rows;
  return view;
}

}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
