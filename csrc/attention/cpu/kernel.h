// SPDX-License-Identifier: MIT
// What an instruction-set unit offers, and how a call is cut into tasks.
//
// Plain data and function pointers: a unit compiled for AVX-512 must not define any symbol that
// the linker could pick for a machine without it.
#pragma once

#include <cstdint>

#include "../backward_params.h"
#include "../params.h"

namespace guide::cpu {

// How one call is cut up. A function of shapes alone, never of the number of threads, so results
// have the same bits however many threads run.
//
// A task is (batch, kv head, block of queries, split of the keys); its rows are the queries of the
// block for every head of the group, so that one block of keys serves them all. A tile is as many
// rows as the registers hold.
struct Plan {
  std::int64_t rows_per_tile;
  std::int64_t queries_per_task;
  std::int64_t query_blocks;
  std::int64_t key_splits;
  std::int64_t keys_per_split;
  std::int64_t tiles_per_task;
  std::int64_t groups;             // batch * num_kv_heads * query_blocks
  std::int64_t tasks;              // groups * key_splits
  std::int64_t padded_head_dim_v;  // multiple of the value micro-tile, or of a pair of vectors
  std::int64_t tile_state_floats;
  std::int64_t scratch_floats;  // of one worker
  std::int64_t partial_floats;  // tile states of all tasks, when the keys are split
  bool has_addends;             // a bias that differs between the rows of a tile
};

// One way to compute a call.
struct Routine {
  Plan (*plan)(const AttentionParams& params);
  // Runs one task. Without key splits it writes the results, otherwise its tile states.
  void (*run_task)(const AttentionParams& params, const Plan& plan, std::int64_t task_idx,
                   float* scratch, float* partials);
  // Merges the key splits of one group, in the order of the keys, and writes the results.
  void (*merge_group)(const AttentionParams& params, const Plan& plan, std::int64_t group_idx,
                      float* scratch, float* partials);
};

// How the gradients of one call are cut up: again a function of shapes alone.
//
// A task is (batch, kv head, block of keys) and meets the rows of all heads of the group, a block
// of rows of one head at a time. Before the tasks every block of rows is prepared; after them sums
// over batch and heads are finished.
struct BackwardPlan {
  std::int64_t keys_per_task;
  std::int64_t key_blocks;
  std::int64_t row_blocks;  // of one head
  std::int64_t row_tasks;   // batch * num_heads * row_blocks
  std::int64_t tasks;       // batch * num_kv_heads * key_blocks
  std::int64_t finish_tasks;
  std::int64_t scratch_floats;  // of one worker
  std::int64_t shared_floats;   // of all workers together
};

// One way to compute the gradients of a call: three steps, each of which needs all of the one
// before. Tasks of a step may run at the same time, if they begin in their order: a task waits for
// earlier ones where both add to the same rows, and calls `pause` meanwhile.
struct BackwardRoutine {
  BackwardPlan (*plan)(const BackwardParams& params);
  void (*prepare_rows)(const BackwardParams& params, const BackwardPlan& plan,
                       std::int64_t task_idx, float* scratch, float* shared);
  void (*run_task)(const BackwardParams& params, const BackwardPlan& plan, std::int64_t task_idx,
                   float* scratch, float* shared, void (*pause)());
  void (*finish)(const BackwardParams& params, const BackwardPlan& plan, std::int64_t task_idx,
                 float* scratch, float* shared);
};

// What one instruction set has. Both routines of the forward pass take every call.
struct Kernel {
  const char* name;
  Routine prefill;  // many rows: K and V are packed once for all of them
  Routine decode;   // few rows: K and V straight from memory
  BackwardRoutine backward;
  // Rows of a group of heads up to which decode is faster: of fp32, and of 16-bit elements, which
  // prefill may have to convert. Measured with AVX2 (Zen 3, head_dim 64 and 128, 64 to 4096 keys)
  // and with AVX-512: there at 48 rows decode is 1.4 times as fast, at 64 as fast.
  std::int64_t most_decode_rows;
  std::int64_t most_decode_rows_of_halves;
};

}  // namespace guide::cpu
