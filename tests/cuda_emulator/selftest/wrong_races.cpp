// SPDX-License-Identifier: MIT
// Planted errors: accesses to shared memory that no barrier orders. Thread numbers and offsets are
// chosen so that the test can tell each pair of accesses from the others.
#include "selftest.h"

namespace selftest {
namespace {

__global__ void read_after_write(const __grid_constant__ Arguments arguments) {
  const std::uint32_t shared = ptx::shared_memory();
  if (threadIdx.x == 3) ptx::store_shared(shared + 40, 1.0f);
  // Missing: __syncthreads()
  if (threadIdx.x == 35) set_output(arguments, 0, ptx::load_shared(shared + 40));
}

__global__ void write_after_read(const __grid_constant__ Arguments arguments) {
  const std::uint32_t shared = ptx::shared_memory();
  if (threadIdx.x == 3) ptx::store_shared(shared + 40, 1.0f);
  __syncthreads();
  if (threadIdx.x == 35) set_output(arguments, 0, ptx::load_shared(shared + 40));
  // Missing: __syncthreads()
  if (threadIdx.x == 3) ptx::store_shared(shared + 40, 2.0f);
}

__global__ void write_after_write(const __grid_constant__ Arguments) {
  const std::uint32_t shared = ptx::shared_memory();
  if (threadIdx.x == 3 || threadIdx.x == 35) ptx::store_shared(shared + 40, 1.0f);
}

__global__ void missing_syncwarp(const __grid_constant__ Arguments arguments) {
  const std::uint32_t shared = ptx::shared_memory();
  if (threadIdx.x == 3) ptx::store_shared(shared + 40, 1.0f);
  // Missing: __syncwarp(). A shuffle lets lanes meet, but orders no memory.
  const float value = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
  if (threadIdx.x == 4) set_output(arguments, 0, ptx::load_shared(shared + 40) + value);
}

// Only the last number of four is another thread's.
__global__ void partial_overlap(const __grid_constant__ Arguments) {
  const std::uint32_t shared = ptx::shared_memory();
  if (threadIdx.x == 3) ptx::store_shared_chunk(shared + 32, uint4{});
  if (threadIdx.x == 35) ptx::store_shared(shared + 44, 1.0f);
}

// Warps 0 and 1 meet; warp 2 does not.
__global__ void barrier_of_others(const __grid_constant__ Arguments arguments) {
  const std::uint32_t shared = ptx::shared_memory();
  if (threadIdx.x == 3) ptx::store_shared(shared + 40, 1.0f);
  if (threadIdx.x < 64) cuda_emulator::bar_sync(1, 64);
  if (threadIdx.x == 67) set_output(arguments, 0, ptx::load_shared(shared + 40));
}

// Who only arrives has waited for nobody.
__global__ void arrival_without_wait(const __grid_constant__ Arguments arguments) {
  const std::uint32_t shared = ptx::shared_memory();
  if (threadIdx.x == 3) ptx::store_shared(shared + 40, 1.0f);
  if (threadIdx.x < 32) {
    cuda_emulator::bar_sync(1, 64);
  } else {
    cuda_emulator::bar_arrive(1, 64);
    __syncwarp();  // everybody has arrived by now, if warp 0 runs first
  }
  if (threadIdx.x == 35) set_output(arguments, 0, ptx::load_shared(shared + 40));
}

// A write before the barrier of two warps is ordered, the one after it is not.
__global__ void write_after_barrier(const __grid_constant__ Arguments arguments) {
  const std::uint32_t shared = ptx::shared_memory();
  if (threadIdx.x >= 64) return;
  if (threadIdx.x == 3) ptx::store_shared(shared + 40, 1.0f);
  cuda_emulator::bar_sync(1, 64);
  if (threadIdx.x == 3) ptx::store_shared(shared + 40, 2.0f);
  if (threadIdx.x == 35) set_output(arguments, 0, ptx::load_shared(shared + 40));
}

// ldmatrix reads what another warp stores.
__global__ void matrix_race(const __grid_constant__ Arguments arguments) {
  const std::uint32_t shared = ptx::shared_memory();
  if (threadIdx.x == 35) ptx::store_shared(shared + 3 * 16 + 8, 1.0f);
  if (threadIdx.x < 32) {
    std::uint32_t registers[4];
    ptx::load_matrices(registers, shared + threadIdx.x * 16);
    set_output(arguments, threadIdx.x, registers[0]);
  }
}

// One error in each of many threads.
__global__ void many_races(const __grid_constant__ Arguments) {
  ptx::store_shared(ptx::shared_memory(), 1.0f);
}

}  // namespace

SELFTEST_RUN(read_after_write, dim3(1), 64, 1024)
SELFTEST_RUN(write_after_read, dim3(1), 64, 1024)
SELFTEST_RUN(write_after_write, dim3(1), 64, 1024)
SELFTEST_RUN(missing_syncwarp, dim3(1), 32, 1024)
SELFTEST_RUN(partial_overlap, dim3(1), 64, 1024)
SELFTEST_RUN(barrier_of_others, dim3(1), 96, 1024)
SELFTEST_RUN(arrival_without_wait, dim3(1), 64, 1024)
SELFTEST_RUN(write_after_barrier, dim3(1), 96, 1024)
SELFTEST_RUN(matrix_race, dim3(1), 64, 1024)
SELFTEST_RUN(many_races, dim3(1), 64, 1024)

}  // namespace selftest
