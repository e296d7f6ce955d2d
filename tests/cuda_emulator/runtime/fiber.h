// SPDX-License-Identifier: MIT
// Fibers: places to stop and go on, each with a stack of its own. One per CUDA thread.
#pragma once

#include <cstddef>
#include <vector>

// x86-64 switches with a dozen instructions; everything else with the C library's ucontext, which
// makes a system call each time. The macro tests the second way on a machine that has the first.
#if defined(__x86_64__) && !defined(GUIDE_CUDA_EMULATOR_UCONTEXT)
#define CUDA_EMULATOR_FAST_SWITCH 1
#else
#define CUDA_EMULATOR_FAST_SWITCH 0
#include <ucontext.h>
#endif

namespace cuda_emulator {

struct Stack {
  char* bottom = nullptr;
  std::size_t bytes = 0;
};

class Fiber {
 public:
  // The first switch here calls `entry`, which must begin with entered() and never return.
  void start(const Stack& stack, void (*entry)());

  // Stops `from` and goes on in this fiber. A fiber left for good is never switched to again.
  void switch_from(Fiber& from, bool for_good = false);

  static void entered();

 private:
#if CUDA_EMULATOR_FAST_SWITCH
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
  // For AddressSanitizer, which must be told of every change of stacks.
  Stack stack_;
  void* sanitizer_stack_ = nullptr;
};

// Stacks with a guard page below each, kept for later launches.
class StackPool {
 public:
  const Stack& stack(std::size_t number);

 private:
  std::vector<Stack> stacks_;
};

}  // namespace cuda_emulator
