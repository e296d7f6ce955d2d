// SPDX-License-Identifier: MIT
// The products of the backward pass, on fp32 operands in scratch memory.
//
// In each, one operand is a number that is broadcast and the other a vector, of keys or of
// dimensions. Only where keys are the vector has an operand to be packed, once a task.
#pragma once

#include "plan-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace backward {

using Tile = VecF[kTileRows][kTileVectors];

// sums[i][lane] = sum over the steps s of a[i * a_row + s * a_step] * b[s * b_step + lane].
GUIDE_INLINE void multiply(const float* __restrict__ a, std::int64_t a_row, std::int64_t a_step,
                           const float* __restrict__ b, std::int64_t b_step, std::int64_t steps,
                           Tile& sums) {
  for (int i = 0; i < kTileRows; ++i) {
    for (int v = 0; v < kTileVectors; ++v) sums[i][v] = broadcast(0.f);
  }
  for (std::int64_t step = 0; step < steps; ++step) {
    VecF lanes[kTileVectors];
    for (int v = 0; v < kTileVectors; ++v) lanes[v] = load(b + step * b_step + v * kLanes);
    for (int i = 0; i < kTileRows; ++i) {
      const VecF number = broadcast(a[i * a_row + step * a_step]);
      for (int v = 0; v < kTileVectors; ++v) sums[i][v] = fmadd(number, lanes[v], sums[i][v]);
    }
  }
}

// Rows of a block of which a tile of keys needs to know, half-open.
struct RowRange {
  std::int64_t begin;
  std::int64_t end;
};

// sums[key][d] += sum over rows of weights[row][key] * rows[row][d]. A block of rows is summed from
// zero and added once, which keeps the rounding errors of long sums small.
inline void add_to_keys(const float* weights, std::int64_t weights_stride, const float* rows,
                        std::int64_t stride, std::int64_t dims, std::int64_t num_keys,
                        const RowRange* rows_of_tile, float* sums) {
  for (std::int64_t d = 0; d < dims; d += kPanel) {
    for (std::int64_t k = 0; k < num_keys; k += kTileRows) {
      const RowRange range = rows_of_tile[k / kTileRows];
      if (range.begin >= range.end) continue;
      Tile tile;
      multiply(weights + range.begin * weights_stride + k, 1, weights_stride,
               rows + range.begin * stride + d, stride, range.end - range.begin, tile);
      for (int i = 0; i < kTileRows; ++i) {
        for (int v = 0; v < kTileVectors; ++v) {
          float* at = sums + (k + i) * stride + d + v * kLanes;
          store(at, load(at) + tile[i][v]);
        }
      }
    }
  }
}

// sums[row][d] += factor * sum over keys of weights[row][key] * keys[key][d], for the rows that
// exist and the dimensions that exist. `sums` has rows of `dims` numbers.
inline void add_to_rows(const float* weights, std::int64_t weights_stride, const float* keys,
                        std::int64_t stride, std::int64_t dims, std::int64_t num_rows,
                        const KeyRange* keys_of_tile, float factor, float* sums) {
  for (std::int64_t d = 0; d < dims; d += kPanel) {
    for (std::int64_t row = 0; row < num_rows; row += kTileRows) {
      const KeyRange range = keys_of_tile[row / kTileRows];
      if (range.begin >= range.end) continue;
      Tile tile;
      multiply(weights + row * weights_stride + range.begin, weights_stride, 1,
               keys + range.begin * stride + d, stride, range.end - range.begin, tile);
      for (int i = 0; i < kTileRows; ++i) {
        if (row + i >= num_rows) break;
        float* target = sums + (row + i) * dims + d;
        for (int v = 0; v < kTileVectors; ++v) {
          const std::int64_t present = min_of(kLanes, dims - d - v * kLanes);
          if (present <= 0) break;
          if (present == kLanes) {
            float* at = target + v * kLanes;
            store(at, fmadd(broadcast(factor), tile[i][v], load(at)));
          } else {
            float numbers[kLanes] = {};
            for (std::int64_t n = 0; n < present; ++n) numbers[n] = target[v * kLanes + n];
            store(numbers, fmadd(broadcast(factor), tile[i][v], load(numbers)));
            for (std::int64_t n = 0; n < present; ++n) target[v * kLanes + n] = numbers[n];
          }
        }
      }
    }
  }
}

}  // namespace backward
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
