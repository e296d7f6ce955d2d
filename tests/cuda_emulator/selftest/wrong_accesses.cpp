// SPDX-License-Identifier: MIT
// Planted errors: addresses. Thread 5 does it; shared memory has 1024 bytes.
#include "selftest.h"

namespace selftest {
namespace {

__global__ void load_past_shared(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x != 5) return;
  set_output(arguments, 0, ptx::load_shared(ptx::shared_memory() + 1024));
}

__global__ void store_before_shared(const __grid_constant__ Arguments) {
  if (threadIdx.x == 5) ptx::store_shared(ptx::shared_memory() - 4, 1.0f);
}

__global__ void store_across_end(const __grid_constant__ Arguments) {
  if (threadIdx.x == 5) ptx::store_shared_chunk(ptx::shared_memory() + 1016, uint4{});
}

__global__ void store_misaligned(const __grid_constant__ Arguments) {
  if (threadIdx.x == 5) ptx::store_shared_chunk(ptx::shared_memory() + 8, uint4{});
}

__global__ void load_matrices_past(const __grid_constant__ Arguments arguments) {
  std::uint32_t registers[4];
  ptx::load_matrices(registers, ptx::shared_memory() + (threadIdx.x == 5 ? 1024 : 0));
  set_output(arguments, threadIdx.x, registers[0]);
}

__global__ void load_matrices_misaligned(const __grid_constant__ Arguments arguments) {
  std::uint32_t registers[4];
  ptx::load_matrices(registers, ptx::shared_memory() + (threadIdx.x == 5 ? 40 : 0));
  set_output(arguments, threadIdx.x, registers[0]);
}

// ---- Global memory: the test registers 64 bytes of input and of output
// ----------------------------

__global__ void load_past_global(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x == 5) set_output(arguments, 0, input<float>(arguments, 18));
}

__global__ void load_before_global(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x != 5) return;
  set_output(arguments, 0, ptx::load_global(static_cast<const float*>(arguments.input) - 2));
}

__global__ void load_across_end(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x != 5) return;
  set_output(arguments, 0,
             ptx::load_global(
                 reinterpret_cast<const uint4*>(static_cast<const char*>(arguments.input) + 56))
                 .x);
}

__global__ void store_past_global(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x == 5) set_output(arguments, 16, 1.0f);
}

__global__ void store_to_input(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x != 5) return;
  ptx::store_global(static_cast<float*>(const_cast<void*>(arguments.input)) + 2, 1.0f);
}

__global__ void load_misaligned_global(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x != 5) return;
  set_output(arguments, 0,
             ptx::load_global(
                 reinterpret_cast<const float2*>(static_cast<const char*>(arguments.input) + 12))
                 .x);
}

// What is wrong everywhere else is right while no range is registered, and within one.
__global__ void touch_global(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x < 16) set_output(arguments, threadIdx.x, input<float>(arguments, threadIdx.x));
}

}  // namespace

SELFTEST_RUN(load_past_shared, dim3(1), 64, 1024)
SELFTEST_RUN(store_before_shared, dim3(1), 64, 1024)
SELFTEST_RUN(store_across_end, dim3(1), 64, 1024)
SELFTEST_RUN(store_misaligned, dim3(1), 64, 1024)
SELFTEST_RUN(load_matrices_past, dim3(1), 32, 1024)
SELFTEST_RUN(load_matrices_misaligned, dim3(1), 32, 1024)
SELFTEST_RUN(load_past_global, dim3(2), 64, 0)
SELFTEST_RUN(load_before_global, dim3(1), 64, 0)
SELFTEST_RUN(load_across_end, dim3(1), 64, 0)
SELFTEST_RUN(store_past_global, dim3(1), 64, 0)
SELFTEST_RUN(store_to_input, dim3(1), 64, 0)
SELFTEST_RUN(load_misaligned_global, dim3(1), 64, 0)
SELFTEST_RUN(touch_global, dim3(1), 64, 0)

}  // namespace selftest
