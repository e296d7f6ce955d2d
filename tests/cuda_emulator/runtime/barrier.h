// SPDX-License-Identifier: MIT
// The numbered barriers of a block.
#pragma once

#include <vector>

namespace cuda_emulator {

constexpr int kBarriers = 16;

struct Barrier {
  int expected = 0;          // threads of the phase under way
  std::vector<int> arrived;  // in the phase under way
  std::vector<int> waiting;  // those of them that wait for its end
};

}  // namespace cuda_emulator
