// SPDX-License-Identifier: MIT
#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#if CUDA_EMULATOR_FAST_SWITCH
// Saves what the System V calling convention lets a function expect to survive a call, except the
// floating-point control words, which no kernel changes.
extern "C" void cuda_emulator_switch_stacks(void** from, void* to);
asm(R"(
.text
.globl cuda_emulator_switch_stacks
.hidden cuda_emulator_switch_stacks
.type cuda_emulator_switch_stacks, @function
cuda_emulator_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_emulator_switch_stacks, .-cuda_emulator_switch_stacks
)");
#endif

namespace cuda_emulator {
namespace {

// Kernels compiled without optimisation keep all their fragments on the stack, many times over.
constexpr std::size_t kStackBytes = 256 * 1024;

#ifdef __SANITIZE_ADDRESS__
Stack* left_stack = nullptr;
#endif

}  // namespace

void Fiber::start(const Stack& stack, void (*entry)()) {
  stack_ = stack;
  sanitizer_stack_ = nullptr;
#if CUDA_EMULATOR_FAST_SWITCH
  constexpr int kSavedRegisters = 6;
  auto* top = reinterpret_cast<void**>(stack.bottom + stack.bytes);
  *--top = nullptr;  // as if `entry` had been called from address 0: debuggers stop here
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  stack_pointer_ = top;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack.bottom;
  context_.uc_stack.ss_size = stack.bytes;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#endif
}

void Fiber::switch_from(Fiber& from, [[maybe_unused]] bool for_good) {
#ifdef __SANITIZE_ADDRESS__
  left_stack = &from.stack_;
  __sanitizer_start_switch_fiber(for_good ? nullptr : &from.sanitizer_stack_, stack_.bottom,
                                 stack_.bytes);
#endif
#if CUDA_EMULATOR_FAST_SWITCH
  cuda_emulator_switch_stacks(&from.stack_pointer_, stack_pointer_);
#else
  swapcontext(&from.context_, &context_);
#endif
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(from.sanitizer_stack_, nullptr, nullptr);
#endif
}

void Fiber::entered() {
#ifdef __SANITIZE_ADDRESS__
  // The stack of the fiber that was left is news if that was the caller's own.
  const void* bottom = nullptr;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &left_stack->bytes);
  left_stack->bottom = static_cast<char*>(const_cast<void*>(bottom));
#endif
}

const Stack& StackPool::stack(std::size_t number) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  while (stacks_.size() <= number) {
    void* memory = mmap(nullptr, page + kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, page, PROT_NONE);
    // Stacks that all end at the same place in a page would fight for the same lines of the first
    // cache; spread over a page, those of a warp make an attention kernel 10 % faster.
    const std::size_t shift = stacks_.size() % 32 * 128;
    stacks_.push_back({static_cast<char*>(memory) + page, kStackBytes - shift});
  }
  return stacks_[number];
}

}  // namespace cuda_emulator
