// SPDX-License-Identifier: MIT
// How prefill cuts a call, and where a worker's scratch memory holds what.
#pragma once

#include "../plan-inl.h"
#include "words-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace prefill {

// Between strips of V, so that equal places of all strips do not fall into one set of the cache.
constexpr std::int64_t kStripPadding = 16;

// Words of a dimension of V^T in tiles.
constexpr std::int64_t kValueStride = kBlockN / 2 + kStripPadding;

// Floats of a packed row of Q or K, of whatever dtype.
constexpr std::int64_t row_floats(std::int64_t head_dim) {
  return max_of(head_dim, row_words<BFloat16>(head_dim));
}

// Floats of the packed values of a block: strips, or V^T in tiles and two columns of it.
constexpr std::int64_t value_floats(std::int64_t head_dim_v) {
  const std::int64_t strips = ceil_div(head_dim_v, kLanes) * (kBlockN * kLanes + kStripPadding);
  const std::int64_t tiles = round_up(head_dim_v, kTileSide) * (kValueStride + 2 * kTileSide);
  return kHasTiles<BFloat16> ? max_of(strips, tiles) : strips;
}

// Scratch memory of a worker.
struct Scratch {
  float* key;        // [kBlockN, row_floats]
  float* value;      // [value_floats]
  float* influence;  // [channels, kBlockN]
  float* key_bias;   // [kBlockN]
  float* addends;    // [kBlockN, rows]
  float* scores;     // [kBlockN, rows]
  float* query_t;    // [tiles, row_floats, rows]
  float* states;     // [tiles, tile_state_floats]
  TileRows* tiles;   // [tiles]
  std::int64_t num_floats;
};

inline Scratch layout_scratch(const AttentionParams& params, const Plan& plan, float* base) {
  Carver carver(base);
  const std::int64_t rows = plan.rows_per_tile;
  const std::int64_t tiles = plan.tiles_per_task;
  Scratch scratch{};
  scratch.key = carver.take(kBlockN * row_floats(params.head_dim));
  scratch.value = carver.take(value_floats(params.head_dim_v));
  scratch.influence = carver.take(params.channels * kBlockN);
  scratch.key_bias = carver.take(kBlockN);
  scratch.addends = carver.take(plan.has_addends ? kBlockN * rows : 0);
  scratch.scores = carver.take(kBlockN * rows);
  scratch.query_t = carver.take(tiles * row_floats(params.head_dim) * rows);
  scratch.states = carver.take(plan.key_splits > 1 ? 0 : tiles * plan.tile_state_floats);
  scratch.tiles = carver.take_tiles(tiles);
  scratch.num_floats = carver.used();
  return scratch;
}

constexpr std::int64_t kFewestKeys = 512;  // of a split

inline int vectors_of(const Plan& plan) { return static_cast<int>(plan.rows_per_tile / kLanes); }

// Whether a few tiles hold all rows of a group.
inline bool has_few_rows(const AttentionParams& params) {
  constexpr std::int64_t kFewTiles = 3;
  return params.group_size * params.seqlen_q <= kFewTiles * kMaxRows;
}

// Vectors of rows in a tile. Of few rows, so many that little is wasted: a narrow tile reads more
// numbers for a product, which here counts as one half of a vector.
inline int choose_vectors(const AttentionParams& params) {
  int chosen = kMostVectors;
  if (!has_few_rows(params)) return chosen;
  const auto cost = [&](int vectors) {
    return ceil_div(params.group_size * params.seqlen_q, vectors * kLanes) * (2 * vectors + 1);
  };
  for (int vectors = kMostVectors - 1; vectors >= kFewestVectors; --vectors) {
    if (cost(vectors) < cost(chosen)) chosen = vectors;
  }
  return chosen;
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
  // Then splits of the keys make tasks enough, and every key is read once.
  if (has_few_rows(params) && params.seqlen_k >= 2 * kFewestKeys) return params.seqlen_q;

  // Whole tiles of one head each.
  const std::int64_t most_rows = min_of(kMostRows, kStateFloats / floats_per_row);
  std::int64_t queries = max_of(rows, most_rows / group_size / rows * rows);
  const std::int64_t heads = params.batch * params.num_kv_heads;
  while (queries > rows && heads * ceil_div(params.seqlen_q, queries) < kEnoughTasks) {
    queries = round_up(queries / 2, rows);
  }
  return queries;
}

// Keys and values are packed once for all tiles of a task.
inline Plan make_plan(const AttentionParams& params) {
  Plan plan{};
  plan.rows_per_tile = choose_vectors(params) * kLanes;
  plan.padded_head_dim_v = round_up(params.head_dim_v, kValueDims);
  const std::int64_t state_floats = 2 + params.channels + plan.padded_head_dim_v;
  plan.tile_state_floats = state_floats * plan.rows_per_tile;
  plan.queries_per_task =
      choose_queries_per_task(params, plan.rows_per_tile, state_floats + params.head_dim);
  plan.has_addends =
      params.attn_bias != nullptr || (params.key_bias_head_stride != 0 && params.group_size > 1);
  cut_into_tasks(params, kFewestKeys, plan);
  plan.scratch_floats = layout_scratch(params, plan, nullptr).num_floats;
  return plan;
}

}  // namespace prefill
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
