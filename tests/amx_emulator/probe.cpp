// SPDX-License-Identifier: MIT
// The model beside a processor that has AMX: both multiply the same tiles, and every bit must be
// the same. Prints what differs. Returns 0 if nothing does, 1 if something does, 2 without AMX.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>

#define GUIDE_CPU_NAMESPACE probe
#define GUIDE_CPU_AMX
#include "attention/cpu/amx_processor.h"
#include "attention/cpu/prefill/amx_tiles-inl.h"
// After the instructions, which it would replace.
#include "amx_emulator.h"

namespace {

namespace kernel = guide::cpu::probe::prefill;

struct Tile {
  std::uint32_t words[16][16];
};

// Random bits are numbers of every size, denormal and infinite ones, and NaN; `is_tame` keeps them
// near 1, where sums round.
Tile draw(std::mt19937& generator, bool is_tame, bool is_sum) {
  Tile tile;
  for (auto& row : tile.words) {
    for (std::uint32_t& word : row) {
      word = static_cast<std::uint32_t>(generator());
      if (is_tame)
        word = is_sum ? (word & 0x807fffffu) | 0x3f800000u  // one number, or a pair
                      : (word & 0x807f807fu) | 0x3f803f80u;
    }
  }
  return tile;
}

// NaN is NaN, whatever its bits.
bool is_nan(std::uint32_t bits) { return (bits & 0x7fffffffu) > 0x7f800000u; }

float* numbers(Tile& tile) { return reinterpret_cast<float*>(tile.words); }

int differing_words(std::mt19937& generator, bool is_tame) {
  Tile sum = draw(generator, is_tame, true), a = draw(generator, is_tame, false);
  Tile b = draw(generator, is_tame, false), modelled;
  amx_emulator::Tiles model;
  model.load_config(&kernel::kTileConfig);
  model.load("tileloadd", 0, sum.words, 64);
  model.load("tileloadd", 4, a.words, 64);
  model.load("tileloadd", 6, b.words, 64);
  model.add_bf16_product(0, 4, 6);
  model.store(0, modelled.words, 64);
  {
    const kernel::TileSession<true> session;
    kernel::load_tile<0>(numbers(sum), 64);
    kernel::load_tile<4>(numbers(a), 64);
    kernel::load_tile<6>(numbers(b), 64);
    kernel::add_tile_product<0, 4, 6>();
    kernel::store_tile<0>(numbers(sum), 64);
  }
  int differing = 0;
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 16; ++column) {
      const std::uint32_t found = sum.words[row][column], expected = modelled.words[row][column];
      if (found == expected || (is_nan(found) && is_nan(expected))) continue;
      if (differing++ == 0) {
        std::printf("row %d, column %d: %08x, model %08x\n", row, column, found, expected);
      }
    }
  }
  return differing;
}

}  // namespace

int main() {
  if (!guide::cpu::has_amx()) {
    std::printf("no AMX\n");
    return 2;
  }
  if (const std::string refusal = guide::cpu::request_amx(); !refusal.empty()) {
    std::printf("refused: %s\n", refusal.c_str());
    return 2;
  }
  std::mt19937 generator(1);
  int differing = 0;
  for (int i = 0; i < 200; ++i) differing += differing_words(generator, i % 2 == 0);
  std::printf("%d of %d words differ\n", differing, 200 * 256);
  return differing == 0 ? 0 : 1;
}
