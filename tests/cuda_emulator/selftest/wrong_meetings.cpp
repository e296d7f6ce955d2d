// SPDX-License-Identifier: MIT
// Planted errors: barriers and warp instructions that threads do not come to as they must.
#include "selftest.h"

namespace selftest {
namespace {

using guide::cuda::BFloat16;
using guide::cuda::Float16;

constexpr unsigned kAll = 0xffffffffu;

__global__ void divergent_barrier(const __grid_constant__ Arguments) {
  if (threadIdx.x < 32) __syncthreads();
}

__global__ void barrier_counts(const __grid_constant__ Arguments) {
  if (threadIdx.x < 64) cuda_emulator::bar_sync(1, threadIdx.x < 32 ? 64 : 96);
}

__global__ void barrier_of_half_a_warp(const __grid_constant__ Arguments) {
  cuda_emulator::bar_sync(1, 48);
}

__global__ void barrier_of_too_many(const __grid_constant__ Arguments) {
  cuda_emulator::bar_sync(1, 96);
}

__global__ void barrier_number(const __grid_constant__ Arguments) {
  cuda_emulator::bar_sync(16, -1);
}

__global__ void arrival_without_count(const __grid_constant__ Arguments) {
  cuda_emulator::bar_arrive(1, -1);
}

__global__ void arrival_again(const __grid_constant__ Arguments) {
  if (threadIdx.x != 3) return;
  cuda_emulator::bar_arrive(1, 64);
  cuda_emulator::bar_arrive(1, 64);
}

// Halves of a warp at two barriers: the other warp makes both complete, but hardware lets whole
// warps arrive.
__global__ void two_barriers(const __grid_constant__ Arguments) {
  cuda_emulator::bar_sync(threadIdx.x % 32 < 16 ? 1 : 2, 32);
}

__global__ void ballot_and_shuffle(const __grid_constant__ Arguments arguments) {
  const unsigned result = threadIdx.x < 16 ? __ballot_sync(kAll, 1) : __shfl_sync(kAll, 1u, 0);
  set_output(arguments, threadIdx.x, result);
}

__global__ void two_products(const __grid_constant__ Arguments) {
  float sums[4] = {};
  const std::uint32_t a[4] = {};
  if (threadIdx.x < 16) {
    ptx::mma_m16n8k16<BFloat16>(sums, a, 0, 0);
  } else {
    ptx::mma_m16n8k16<Float16>(sums, a, 0, 0);
  }
}

__global__ void two_masks(const __grid_constant__ Arguments) {
  __syncwarp(threadIdx.x < 16 ? kAll : 0xffff000fu);
}

__global__ void mask_of_others(const __grid_constant__ Arguments arguments) {
  set_output(arguments, threadIdx.x, __ballot_sync(kAll & ~8u, 1));
}

__global__ void lane_missing(const __grid_constant__ Arguments) {
  if (threadIdx.x != 3) __syncwarp();
  __syncthreads();
}

// Matrix instructions, unlike votes, need also the lanes that have exited.
__global__ void lane_exited(const __grid_constant__ Arguments) {
  if (threadIdx.x == 3) return;
  float sums[4] = {};
  const std::uint32_t a[4] = {};
  ptx::mma_m16n8k16<BFloat16>(sums, a, 0, 0);
}

__global__ void shuffle_from_inactive(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x >= 16) return;
  set_output(arguments, threadIdx.x, __shfl_xor_sync(0xffffu, 1u, threadIdx.x == 3 ? 16 : 1));
}

__global__ void shuffle_from_exited(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x == 2) return;
  set_output(arguments, threadIdx.x, __shfl_xor_sync(kAll, 1u, threadIdx.x == 3 ? 1 : 0));
}

}  // namespace

SELFTEST_RUN(divergent_barrier, dim3(1), 64, 0)
SELFTEST_RUN(barrier_counts, dim3(1), 96, 0)
SELFTEST_RUN(barrier_of_half_a_warp, dim3(1), 64, 0)
SELFTEST_RUN(barrier_of_too_many, dim3(1), 64, 0)
SELFTEST_RUN(barrier_number, dim3(1), 64, 0)
SELFTEST_RUN(arrival_without_count, dim3(1), 64, 0)
SELFTEST_RUN(arrival_again, dim3(1), 64, 0)
SELFTEST_RUN(two_barriers, dim3(1), 64, 0)
SELFTEST_RUN(ballot_and_shuffle, dim3(1), 32, 0)
SELFTEST_RUN(two_products, dim3(1), 32, 0)
SELFTEST_RUN(two_masks, dim3(1), 32, 0)
SELFTEST_RUN(mask_of_others, dim3(1), 32, 0)
SELFTEST_RUN(lane_missing, dim3(1), 32, 0)
SELFTEST_RUN(lane_exited, dim3(1), 32, 0)
SELFTEST_RUN(shuffle_from_inactive, dim3(1), 32, 0)
SELFTEST_RUN(shuffle_from_exited, dim3(1), 32, 0)

}  // namespace selftest
