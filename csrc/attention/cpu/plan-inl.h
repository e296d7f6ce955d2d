// SPDX-License-Identifier: MIT
// How a call is cut into tasks and tiles, and where a worker's scratch memory holds what.
#pragma once

#include "../score_mod.h"
#include "decode_block-inl.h"
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
  float* value;      // [strips, kBlockN * kLanes + kStripPadding]
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

inline Scratch layout_scratch(const AttentionParams& params, const Plan& plan, float* base) {
  Carver carver(base);
  const std::int64_t rows = plan.rows_per_tile;
  const std::int64_t tiles = plan.tiles_per_task;
  Scratch scratch{};
  scratch.key = carver.take(kBlockN * params.head_dim);
  scratch.value =
      carver.take(ceil_div(params.head_dim_v, kLanes) * (kBlockN * kLanes + kStripPadding));
  scratch.influence = carver.take(params.channels * kBlockN);
  scratch.key_bias = carver.take(kBlockN);
  scratch.addends = carver.take(plan.has_addends ? kBlockN * rows : 0);
  scratch.scores = carver.take(kBlockN * rows);
  scratch.out_row = carver.take(plan.padded_head_dim_v);
  scratch.query_t = carver.take(tiles * params.head_dim * rows);
  scratch.states = carver.take(plan.key_splits > 1 ? 0 : tiles * plan.tile_state_floats);
  scratch.tiles = carver.take_tiles(tiles);
  scratch.num_floats = carver.used();
  return scratch;
}

// Scratch memory of a worker that decodes.
struct DecodeScratch {
  float* scores;         // [rows, kScoreStride]
  float* biases;         // [rows, kBlockN]
  float* key_bias;       // [kBlockN]
  float* influence;      // [kBlockN]
  float* queries;        // [tiles, rows, head_dim], whole pairs as DotPairs has them
  float* states;         // [tiles, tile_state_floats]
  float* row_influence;  // [channels], of a row to write
  float* row_out;        // [padded_head_dim_v]
  float* row_buffer;     // [padded_head_dim_v]
  TileRows* tiles;       // [tiles]
  TileRows* single_row;  // a tile of one row
  std::int64_t num_floats;
};

inline DecodeScratch layout_decode_scratch(const AttentionParams& params, const Plan& plan,
                                           float* base) {
  Carver carver(base);
  const std::int64_t rows = plan.rows_per_tile;
  const std::int64_t tiles = plan.tiles_per_task;
  DecodeScratch scratch{};
  scratch.scores = carver.take(rows * kScoreStride);
  scratch.biases = carver.take(rows * kBlockN);
  scratch.key_bias = carver.take(kBlockN);
  scratch.influence = carver.take(kBlockN);
  scratch.queries = carver.take(tiles * rows * num_pairs(params.head_dim) * kPairElements);
  scratch.states = carver.take(plan.key_splits > 1 ? 0 : tiles * plan.tile_state_floats);
  scratch.row_influence = carver.take(params.channels);
  scratch.row_out = carver.take(plan.padded_head_dim_v);
  scratch.row_buffer = carver.take(plan.padded_head_dim_v);
  scratch.tiles = carver.take_tiles(tiles);
  scratch.single_row = carver.take_tiles(1);
  scratch.num_floats = carver.used();
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
inline std::int64_t choose_key_splits(const AttentionParams& params, const Plan& plan) {
  constexpr std::int64_t kEnoughTasks = 64;
  const std::int64_t fewest_keys = plan.is_decode ? 256 : 512;
  const std::int64_t most_splits = params.seqlen_k / fewest_keys;
  return max_of(1, min_of(most_splits, ceil_div(kEnoughTasks, plan.groups)));
}

// Few rows: every tile reads K and V from memory, the second and later ones from the cache.
inline void plan_decode_tiles(const AttentionParams& params, Plan& plan) {
  const std::int64_t rows = params.group_size * params.seqlen_q;
  plan.rows_per_tile = ceil_div(rows, ceil_div(rows, kMostDecodeRows));
  plan.padded_head_dim_v = num_pairs(params.head_dim_v) * kPairElements;
  plan.tile_state_floats =
      (2 + params.channels) * kLanes + plan.rows_per_tile * plan.padded_head_dim_v;
  plan.queries_per_task = params.seqlen_q;
}

// Many rows: keys and values are packed once for all tiles of a task.
inline void plan_packed_tiles(const AttentionParams& params, Plan& plan) {
  plan.rows_per_tile = kMaxRows;
  plan.padded_head_dim_v = round_up(params.head_dim_v, kValueDims);
  const std::int64_t state_floats = 2 + params.channels + plan.padded_head_dim_v;
  plan.tile_state_floats = state_floats * plan.rows_per_tile;
  plan.queries_per_task =
      choose_queries_per_task(params, plan.rows_per_tile, state_floats + params.head_dim);
}

inline Plan make_plan(const AttentionParams& params) {
  Plan plan{};
  plan.is_decode = params.group_size * params.seqlen_q <= kMostDecodeRowsOfTask;
  if (plan.is_decode) {
    plan_decode_tiles(params, plan);
  } else {
    plan_packed_tiles(params, plan);
  }
  plan.query_blocks = ceil_div(params.seqlen_q, plan.queries_per_task);
  plan.tiles_per_task = ceil_div(plan.queries_per_task * params.group_size, plan.rows_per_tile);
  plan.groups = params.batch * params.num_kv_heads * plan.query_blocks;

  const std::int64_t wanted_splits = choose_key_splits(params, plan);
  plan.keys_per_split =
      max_of(kBlockN, round_up(ceil_div(params.seqlen_k, wanted_splits), kBlockN));
  plan.key_splits = max_of(1, ceil_div(params.seqlen_k, plan.keys_per_split));
  plan.tasks = plan.groups * plan.key_splits;
  plan.has_addends =
      params.attn_bias != nullptr || (params.key_bias_head_stride != 0 && params.group_size > 1);

  plan.partial_floats =
      plan.key_splits > 1 ? plan.tasks * plan.tiles_per_task * plan.tile_state_floats : 0;
  plan.scratch_floats = plan.is_decode ? layout_decode_scratch(params, plan, nullptr).num_floats
                                       : layout_scratch(params, plan, nullptr).num_floats;
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
