// SPDX-License-Identifier: MIT
// How decoding cuts a call, and where a worker's scratch memory holds what.
#pragma once

#include "../plan-inl.h"
#include "tile-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace decode {

// Scratch memory of a worker.
struct Scratch {
  float* scores;         // [rows, kScoreStride]
  float* biases;         // [rows, kBlockN]
  float* key_bias;       // [kBlockN]
  float* influence;      // [kBlockN]
  float* queries;        // [tiles, rows, head_dim], whole pairs as DotPairs has them
  float* states;         // [tiles, tile_state_floats]
  float* row_influence;  // [channels], of a row to write
  float* row_out;        // [padded_head_dim_v]
  TileRows* tiles;       // [tiles]
  TileRows* single_row;  // a tile of one row
  std::int64_t num_floats;
};

inline Scratch layout_scratch(const AttentionParams& params, const Plan& plan, float* base) {
  Carver carver(base);
  const std::int64_t rows = plan.rows_per_tile;
  const std::int64_t tiles = plan.tiles_per_task;
  Scratch scratch{};
  scratch.scores = carver.take(rows * kScoreStride);
  scratch.biases = carver.take(rows * kBlockN);
  scratch.key_bias = carver.take(kBlockN);
  scratch.influence = carver.take(kBlockN);
  scratch.queries = carver.take(tiles * rows * num_pairs(params.head_dim) * kPairElements);
  scratch.states = carver.take(plan.key_splits > 1 ? 0 : tiles * plan.tile_state_floats);
  scratch.row_influence = carver.take(params.channels);
  scratch.row_out = carver.take(plan.padded_head_dim_v);
  scratch.tiles = carver.take_tiles(tiles);
  scratch.single_row = carver.take_tiles(1);
  scratch.num_floats = carver.used();
  return scratch;
}

// Every tile reads K and V from memory, the second and later ones from the cache.
inline Plan make_plan(const AttentionParams& params) {
  constexpr std::int64_t kFewestKeys = 256;
  const std::int64_t rows = params.group_size * params.seqlen_q;
  Plan plan{};
  plan.rows_per_tile = ceil_div(rows, ceil_div(rows, kMostRows));
  plan.padded_head_dim_v = num_pairs(params.head_dim_v) * kPairElements;
  plan.tile_state_floats =
      (2 + params.channels) * kLanes + plan.rows_per_tile * plan.padded_head_dim_v;
  plan.queries_per_task = params.seqlen_q;
  cut_into_tasks(params, kFewestKeys, plan);
  plan.scratch_floats = layout_scratch(params, plan, nullptr).num_floats;
  return plan;
}

}  // namespace decode
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
