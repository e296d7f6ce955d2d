// SPDX-License-Identifier: MIT
// The thread block that runs, with everything that lives and ends with it.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "../cuda_emulator.h"
#include "async_copy.h"
#include "barrier.h"
#include "fiber.h"
#include "race_checker.h"
#include "shared_memory.h"
#include "warp.h"

namespace cuda_emulator {

constexpr int kWarpSize = 32;
constexpr int kMaxThreads = 1024;

struct Thread {
  int number = 0;  // in the block
  int warp = 0;
  int lane = 0;
  Index index{};
  bool has_exited = false;
  const char* waits_at = nullptr;  // null: runs, could run, or has exited
  int waits_at_id = -1;            // negative: what it waits at has no number
  Fiber fiber;
  AsyncCopies copies;
};

struct Block {
  std::string kernel;
  dim3 grid;
  dim3 size;
  Index index{};
  detail::KernelBody body = nullptr;
  const void* params = nullptr;

  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::array<Barrier, kBarriers> barriers;
  SharedMemory shared_memory;
  RaceChecker race_checker;
};

// One launch runs at a time, under launch_mutex(), and one block of it. These are no thread-local
// variables, which a shared library pays for with a call at each use.
extern Block running_block;
extern Thread* running_thread;

}  // namespace cuda_emulator
