// SPDX-License-Identifier: MIT
// The machine of the model, in the place of csrc/attention/cpu/amx_processor.cpp.
#include <string>

#include "amx_emulator.h"
#include "attention/cpu/amx_processor.h"

namespace {

bool has_tiles = true;
std::string refusal;

}  // namespace

namespace guide::cpu {

bool has_amx() { return has_tiles; }

std::string request_amx() { return refusal; }

}  // namespace guide::cpu

extern "C" __attribute__((visibility("default"))) void amx_emulator_set_machine(int has_amx,
                                                                                const char* refuses,
                                                                                int swaps_pairs) {
  has_tiles = has_amx != 0;
  refusal = refuses;
  amx_emulator::swaps_pairs = swaps_pairs != 0;
}
