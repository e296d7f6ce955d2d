// SPDX-License-Identifier: MIT
// Instructions that the lanes of a warp execute together.
#pragma once

#include <cstdint>
#include <vector>

namespace cuda_emulator {

// One kind of such instruction. Lanes meet when kind, variant and mask agree.
struct Collective {
  const char* name;
  // Whether every lane named must come, or only those that have not exited.
  bool needs_exited_lanes;
  // Does the work of all lanes of `mask`, from what each has passed to meet().
  void (*finish)(void* const* arguments, std::uint32_t mask, int variant);
};

// Lanes that wait for the others of their mask.
struct Meeting {
  const Collective* collective;
  int variant;
  std::uint32_t mask;
  std::uint32_t arrived;
  void* arguments[32];
};

struct Warp {
  std::uint32_t runnable = 0;
  std::uint32_t exited = 0;      // lanes that do not exist count as exited
  std::uint32_t at_barrier = 0;  // lanes that wait at one
  int barrier = 0;               // which one
  std::vector<Meeting> meetings;
};

// Brings the running lane to a collective instruction. Returns when its work is done: false if that
// can never be, and a report says why.
bool meet(const Collective& collective, int variant, std::uint32_t mask, void* argument);

// The running lane exits: others of its warp may have waited for nobody else.
void leave_warp();

}  // namespace cuda_emulator
