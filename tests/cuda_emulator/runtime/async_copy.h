// SPDX-License-Identifier: MIT
// Asynchronous copies from global to shared memory, as one thread has started them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cuda_emulator {

struct AsyncCopy {
  std::uint32_t offset;  // in shared memory
  const void* source;
  int bytes;
  int source_bytes;  // of them; zeros after that
  int group;
};

struct AsyncCopies {
  std::vector<AsyncCopy> started;  // in order
  std::size_t finished = 0;        // so many of them
  int open_group = 0;
};

// The running thread exits: it must have waited for all its copies.
void finish_copies_at_exit();

}  // namespace cuda_emulator
