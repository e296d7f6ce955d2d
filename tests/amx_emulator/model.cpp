// SPDX-License-Identifier: MIT
// The model's instructions for tests/amx/test_model.py: each returns what the processor would fault
// with, or null.
#include <cstdint>
#include <exception>
#include <string>

#include "amx_emulator.h"

namespace {

template <class Instruction>
const char* fault_of(const Instruction& instruction) {
  static thread_local std::string words;
  try {
    instruction(amx_emulator::tiles());
    return nullptr;
  } catch (const std::exception& error) {
    words = error.what();
    return words.c_str();
  }
}

}  // namespace

#define AMX_EMULATOR_EXPORT extern "C" __attribute__((visibility("default")))
using amx_emulator::Tiles;

AMX_EMULATOR_EXPORT const char* amx_emulator_ldtilecfg(const void* memory) {
  return fault_of([&](Tiles& tiles) { tiles.load_config(memory); });
}

AMX_EMULATOR_EXPORT const char* amx_emulator_sttilecfg(void* memory) {
  return fault_of([&](Tiles& tiles) { tiles.store_config(memory); });
}

AMX_EMULATOR_EXPORT const char* amx_emulator_tilerelease() {
  return fault_of([](Tiles& tiles) { tiles.release(); });
}

AMX_EMULATOR_EXPORT const char* amx_emulator_tilezero(int tile) {
  return fault_of([&](Tiles& tiles) { tiles.zero(tile); });
}

AMX_EMULATOR_EXPORT const char* amx_emulator_tileloadd(int tile, const void* memory,
                                                       std::int64_t stride) {
  return fault_of([&](Tiles& tiles) { tiles.load("tileloadd", tile, memory, stride); });
}

AMX_EMULATOR_EXPORT const char* amx_emulator_tileloaddt1(int tile, const void* memory,
                                                         std::int64_t stride) {
  return fault_of([&](Tiles& tiles) { tiles.load("tileloaddt1", tile, memory, stride); });
}

AMX_EMULATOR_EXPORT const char* amx_emulator_tilestored(int tile, void* memory,
                                                        std::int64_t stride) {
  return fault_of([&](Tiles& tiles) { tiles.store(tile, memory, stride); });
}

AMX_EMULATOR_EXPORT const char* amx_emulator_tdpbf16ps(int c, int a, int b) {
  return fault_of([&](Tiles& tiles) { tiles.add_bf16_product(c, a, b); });
}
