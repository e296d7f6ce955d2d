// SPDX-License-Identifier: MIT
// The dynamic shared memory of a block, known to kernels by 32-bit addresses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace cuda_emulator {

struct Thread;

// What sm_90 lets a block have; sm_80 has 163 KiB.
constexpr std::size_t kMaxSharedBytes = 227 * 1024;
// The first address. GPUs since sm_80 keep the 1 KiB below it for themselves.
constexpr std::uint32_t kSharedBase = 1024;
// What memory holds before anything is written, and while a copy to it is under way: a NaN in each
// of the types that kernels compute in.
constexpr int kPoison = 0xff;

class SharedMemory {
 public:
  // Poisons everything.
  void start_block(std::size_t bytes);

  std::uint8_t* at_offset(std::uint32_t offset) { return memory_.get() + offset; }

  // The offset of an access; false, and a report, if it is misaligned or out of bounds.
  bool find(const Thread& thread, std::uint32_t address, int bytes, const char* what,
            std::uint32_t* offset) const;

 private:
  std::size_t bytes_ = 0;
  std::unique_ptr<std::uint8_t[]> memory_;
};

}  // namespace cuda_emulator
