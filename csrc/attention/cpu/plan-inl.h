// SPDX-License-Identifier: MIT
// How a call is cut into tasks and tiles, and where a worker's scratch memory holds what.
#pragma once

#include "../score_mod.h"
#include "kernel.h"
#include "tile-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {

constexpr std::int64_t kMaxRows = kWideVectors * kLanes;

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

// Scratch memory of a worker.
struct Scratch {
  float* key;        // [kBlockN, head_dim]
  float* value;      // [kBlockN, padded_head_dim_v]
  float* influence;  // [channels, kBlockN]
  float* key_bias;   // [kBlockN]
  float* addends;    // [kBlockN, rows]
  float* scores;     // [kBlockN, rows]
  float* out_row;    // [padded_head_dim_v]
  float* query_t;    // [tiles, head_dim, rows]
  float* states;     // [tiles, tile_state_floats]
  TileRows* tiles;   // [tiles]
  std::int64_t num_floats;
};

// Lays the parts out one after another from `base`, each on a cache line.
inline Scratch layout_scratch(const AttentionParams& params, const Plan& plan, float* base) {
  constexpr std::int64_t kLineFloats = 16;
  std::int64_t used = 0;
  const auto take = [&](std::int64_t num_floats) {
    const std::int64_t offset = used;
    used += round_up(num_floats, kLineFloats);
    return base == nullptr ? nullptr : base + offset;
  };
  const std::int64_t rows = plan.rows_per_tile;
  const std::int64_t tiles = plan.tiles_per_task;
  Scratch scratch{};
  scratch.key = take(kBlockN * params.head_dim);
  scratch.value = take(kBlockN * plan.padded_head_dim_v);
  scratch.influence = take(params.channels * kBlockN);
  scratch.key_bias = take(kBlockN);
  scratch.addends = take(plan.has_addends ? kBlockN * rows : 0);
  scratch.scores = take(kBlockN * rows);
  scratch.out_row = take(plan.padded_head_dim_v);
  scratch.query_t = take(tiles * params.head_dim * rows);
  scratch.states = take(plan.key_splits > 1 ? 0 : tiles * plan.tile_state_floats);
  constexpr std::int64_t kTileFloats = ceil_div(sizeof(TileRows), sizeof(float));
  scratch.tiles = reinterpret_cast<TileRows*>(take(tiles * kTileFloats));
  scratch.num_floats = used;
  return scratch;
}

// Queries of a task: enough rows to pay for packing the keys, few enough that their state stays in
// the second-level cache, and small enough that there are tasks for many threads.
inline std::int64_t choose_queries_per_task(const AttentionParams& params, std::int64_t rows,
                                            std::int64_t floats_per_row) {
  constexpr std::int64_t kStateFloats = 128 * 1024;
  constexpr std::int64_t kMostRows = 512;
  constexpr std::int64_t kEnoughTasks = 64;
  const std::int64_t group_size = params.group_size;
  if (params.seqlen_q < rows) return params.seqlen_q;

  // Whole tiles of one head each.
  const std::int64_t most_rows = min_of(kMostRows, kStateFloats / floats_per_row);
  std::int64_t queries = max_of(rows, most_rows / group_size / rows * rows);
  const std::int64_t heads = params.batch * params.num_kv_heads;
  while (queries > rows && heads * ceil_div(params.seqlen_q, queries) < kEnoughTasks) {
    queries = round_up(queries / 2, rows);
  }
  return queries;
}

// Splits of the keys: only where batch, heads and queries give few tasks, as in decoding.
inline std::int64_t choose_key_splits(const AttentionParams& params, std::int64_t groups) {
  constexpr std::int64_t kEnoughTasks = 64;
  constexpr std::int64_t kFewestKeys = 512;
  const std::int64_t most_splits = params.seqlen_k / kFewestKeys;
  return max_of(1, min_of(most_splits, ceil_div(kEnoughTasks, groups)));
}

inline Plan make_plan(const AttentionParams& params) {
  Plan plan{};
  plan.vectors_per_tile = params.group_size * params.seqlen_q <= kLanes ? 1 : kWideVectors;
  plan.rows_per_tile = plan.vectors_per_tile * kLanes;
  plan.padded_head_dim_v = round_up(params.head_dim_v, kValueDims);
  const std::int64_t state_floats = 2 + params.channels + plan.padded_head_dim_v;
  plan.tile_state_floats = state_floats * plan.rows_per_tile;

  plan.queries_per_task =
      choose_queries_per_task(params, plan.rows_per_tile, state_floats + params.head_dim);
  plan.query_blocks = ceil_div(params.seqlen_q, plan.queries_per_task);
  plan.tiles_per_task = ceil_div(plan.queries_per_task * params.group_size, plan.rows_per_tile);
  plan.groups = params.batch * params.num_kv_heads * plan.query_blocks;

  const std::int64_t wanted_splits = choose_key_splits(params, plan.groups);
  plan.keys_per_split =
      max_of(kBlockN, round_up(ceil_div(params.seqlen_k, wanted_splits), kBlockN));
  plan.key_splits = max_of(1, ceil_div(params.seqlen_k, plan.keys_per_split));
  plan.tasks = plan.groups * plan.key_splits;
  plan.has_addends =
      params.attn_bias != nullptr || (params.key_bias_head_stride != 0 && params.group_size > 1);

  plan.partial_floats =
      plan.key_splits > 1 ? plan.tasks * plan.tiles_per_task * plan.tile_state_floats : 0;
  plan.scratch_floats = layout_scratch(params, plan, nullptr).num_floats;
  return plan;
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

}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
