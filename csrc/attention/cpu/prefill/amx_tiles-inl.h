// SPDX-License-Identifier: MIT
// The instructions of Intel AMX, and the product of tiles that both passes over a block need.
//
// A tile is 16 rows of 16 words. Of words that hold two bf16 numbers, one instruction multiplies
// 16 x 16 by 16 x 16: that is 16 x 32 numbers by 32 x 16.
//
// Written in assembly: the intrinsics of GCC 12 are that, too, but do not tell the compiler that
// they read memory, so that it may move the stores of what they load behind them. With
// GUIDE_AMX_EMULATED they run on a model of the registers, tests/amx_emulator/.
#pragma once

#include "words-inl.h"

#if defined(GUIDE_AMX_EMULATED)
#include "amx_emulator.h"
#endif

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace prefill {

// What LDTILECFG reads.
struct alignas(64) TileConfig {
  std::uint8_t palette;
  std::uint8_t start_row;
  std::uint8_t reserved[14];
  std::uint16_t bytes_of_row[16];
  std::uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

constexpr TileConfig kTileConfig{
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

#if defined(GUIDE_AMX_EMULATED)

GUIDE_INLINE void load_tile_config() { amx_emulator::tiles().load_config(&kTileConfig); }
GUIDE_INLINE void release_tiles() { amx_emulator::tiles().release(); }

template <int kTile>
GUIDE_INLINE void zero_tile() {
  amx_emulator::tiles().zero(kTile);
}

template <int kTile>
GUIDE_INLINE void load_tile(const float* words, std::int64_t row_bytes) {
  amx_emulator::tiles().load("tileloadd", kTile, words, row_bytes);
}

template <int kTile>
GUIDE_INLINE void store_tile(float* words, std::int64_t row_bytes) {
  amx_emulator::tiles().store(kTile, words, row_bytes);
}

template <int kSum, int kA, int kB>
GUIDE_INLINE void add_tile_product() {
  amx_emulator::tiles().add_bf16_product(kSum, kA, kB);
}

#else

GUIDE_INLINE void load_tile_config() { asm volatile("ldtilecfg %0" ::"m"(kTileConfig)); }
GUIDE_INLINE void release_tiles() { asm volatile("tilerelease"); }

template <int kTile>
GUIDE_INLINE void zero_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}

template <int kTile>
GUIDE_INLINE void load_tile(const float* words, std::int64_t row_bytes) {
  asm volatile("tileloadd (%0,%1), %%tmm%c2" ::"r"(words), "r"(row_bytes), "i"(kTile) : "memory");
}

template <int kTile>
GUIDE_INLINE void store_tile(float* words, std::int64_t row_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1)" ::"r"(words), "r"(row_bytes), "i"(kTile) : "memory");
}

// kSum += A * B.
template <int kSum, int kA, int kB>
GUIDE_INLINE void add_tile_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kA), "i"(kB));
}

#endif

// Configures the tiles of this thread for as long as it lives. A thread that keeps them in use
// makes every switch to another one store and load 8 KB.
template <bool kInUse>
class TileSession {
 public:
  TileSession() {
    if constexpr (kInUse) load_tile_config();
  }
  ~TileSession() {
    if constexpr (kInUse) release_tiles();
  }
  TileSession(const TileSession&) = delete;
  TileSession& operator=(const TileSession&) = delete;
};

// 16 words of up to 32 rows.
struct TileColumn {
  const float* words;
  std::int64_t stride;
};

// sums[i][row] = sum over the words w of left[i][w] * right[w][row], for 32 rows and, with kBoth,
// 32 items, otherwise 16. `left_of(step)` is the TileColumn of the words from 16 * step on;
// `right` and `sums` are [words, 32] and [items, 32]. Each tile that is loaded meets two others.
template <bool kBoth, class LeftOf>
GUIDE_INLINE void multiply_tiles(const LeftOf& left_of, const float* right, std::int64_t num_steps,
                                 float* sums) {
  constexpr auto kRowBytes = static_cast<std::int64_t>(kPairSide * sizeof(float));
  zero_tile<0>();
  zero_tile<1>();
  if constexpr (kBoth) {
    zero_tile<2>();
    zero_tile<3>();
  }
  for (std::int64_t step = 0; step < num_steps; ++step) {
    const TileColumn left = left_of(step);
    const auto left_bytes = left.stride * static_cast<std::int64_t>(sizeof(float));
    load_tile<4>(left.words, left_bytes);
    load_tile<6>(right, kRowBytes);
    add_tile_product<0, 4, 6>();
    load_tile<7>(right + kTileSide, kRowBytes);
    add_tile_product<1, 4, 7>();
    if constexpr (kBoth) {
      load_tile<5>(left.words + kTileSide * left.stride, left_bytes);
      add_tile_product<2, 5, 6>();
      add_tile_product<3, 5, 7>();
    }
    right += kTileSide * kPairSide;
  }
  store_tile<0>(sums, kRowBytes);
  store_tile<1>(sums + kTileSide, kRowBytes);
  if constexpr (kBoth) {
    store_tile<2>(sums + kTileSide * kPairSide, kRowBytes);
    store_tile<3>(sums + kTileSide * kPairSide + kTileSide, kRowBytes);
  }
}

}  // namespace prefill
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
