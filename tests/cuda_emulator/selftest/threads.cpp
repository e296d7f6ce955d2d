// SPDX-License-Identifier: MIT
// Grids, barriers, warps: right uses.
#include "selftest.h"

namespace selftest {
namespace {

constexpr unsigned kAll = 0xffffffffu;

// Output: for each thread the coordinates of its block, the size of the grid, its own index.
__global__ void coordinates(const __grid_constant__ Arguments arguments) {
  const unsigned block = blockIdx.y * gridDim.x + blockIdx.x;
  const uint4 value = make_uint4(blockIdx.x, blockIdx.y, gridDim.x * gridDim.y * gridDim.z,
                                 threadIdx.x + threadIdx.y + threadIdx.z);
  set_output(arguments, block * blockDim.x + threadIdx.x, value);
}

// `option` numbers doubled, by blocks of 64 threads, the last of which has too many.
__global__ void double_numbers(const __grid_constant__ Arguments arguments) {
  const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= static_cast<unsigned>(arguments.option)) return;
  set_output(arguments, index, 2 * input<float>(arguments, index));
}

// Output: what shared memory held at first, and what was stored there.
__global__ void poison(const __grid_constant__ Arguments arguments) {
  const std::uint32_t address = ptx::shared_memory() + 4 * threadIdx.x;
  const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
  set_output(arguments, 2 * index, ptx::load_shared(address));
  ptx::store_shared(address, static_cast<float>(index));
  set_output(arguments, 2 * index + 1, ptx::load_shared(address));
}

// Output: the number of each thread, and of each block, in the order in which they ran.
__global__ void order(const __grid_constant__ Arguments arguments) {
  auto* count = static_cast<std::uint32_t*>(arguments.output);
  set_output(arguments, 1 + (*count)++, blockIdx.x * blockDim.x + threadIdx.x);
}

// Sums over the block, by halves; every step needs the barrier.
__global__ void reduce(const __grid_constant__ Arguments arguments) {
  const std::uint32_t mine = ptx::shared_memory() + 4 * threadIdx.x;
  ptx::store_shared(mine, input<float>(arguments, threadIdx.x));
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      ptx::store_shared(mine, ptx::load_shared(mine) + ptx::load_shared(mine + 4 * half));
    }
  }
  if (threadIdx.x == 0) set_output(arguments, 0, ptx::load_shared(mine));
}

// Warp 0 makes numbers, warp 1 adds them up; barrier 1 says that there is one, barrier 2 that it
// has been taken.
__global__ void produce(const __grid_constant__ Arguments arguments) {
  const unsigned lane = threadIdx.x % 32;
  const std::uint32_t address = ptx::shared_memory() + 4 * lane;
  float sum = 0;
  for (int round = 0; round < arguments.option; ++round) {
    if (threadIdx.x < 32) {
      if (round > 0) cuda_emulator::bar_sync(2, 64);
      ptx::store_shared(address, static_cast<float>(round) + static_cast<float>(lane));
      cuda_emulator::bar_arrive(1, 64);
    } else {
      cuda_emulator::bar_sync(1, 64);
      sum += ptx::load_shared(address ^ 4);
      if (round + 1 < arguments.option) cuda_emulator::bar_arrive(2, 64);
    }
  }
  if (threadIdx.x >= 32) set_output(arguments, lane, sum);
}

// Two pairs of warps, each with a barrier of its own, then one for all.
__global__ void pairs(const __grid_constant__ Arguments arguments) {
  const unsigned pair = threadIdx.x / 64;
  const std::uint32_t shared = ptx::shared_memory();
  ptx::store_shared(shared + 4 * threadIdx.x, threadIdx.x);
  cuda_emulator::bar_sync(static_cast<int>(pair) + 1, 64);
  const float partner = ptx::load_shared(shared + 4 * (threadIdx.x ^ 32));
  __syncthreads();
  ptx::store_shared(shared + 4 * (threadIdx.x ^ 64), partner);
  __syncthreads();
  set_output(arguments, threadIdx.x, ptx::load_shared(shared + 4 * threadIdx.x));
}

// Warp 0 meets warp 1, which then meets warp 2: what warp 0 wrote is there for warp 2.
__global__ void chain(const __grid_constant__ Arguments arguments) {
  const std::uint32_t address = ptx::shared_memory() + 4 * (threadIdx.x % 32);
  const unsigned warp = threadIdx.x / 32;
  if (warp == 0) ptx::store_shared(address, threadIdx.x);
  if (warp <= 1) cuda_emulator::bar_sync(1, 64);
  if (warp >= 1) cuda_emulator::bar_sync(2, 64);
  if (warp == 2) set_output(arguments, threadIdx.x % 32, ptx::load_shared(address));
}

// Output: the number of each warp, in the order in which they got past __syncwarp().
__global__ void turns(const __grid_constant__ Arguments arguments) {
  auto* count = static_cast<std::uint32_t*>(arguments.output);
  for (int turn = 0; turn < arguments.option; ++turn) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) set_output(arguments, 1 + (*count)++, threadIdx.x / 32);
  }
}

// Output: for each lane the results of many exchanges.
__global__ void exchange(const __grid_constant__ Arguments arguments) {
  const int lane = static_cast<int>(threadIdx.x);
  const int value = 100 + lane;
  const int results[] = {
      __shfl_sync(kAll, value, 5),
      __shfl_sync(kAll, value, 35),  // modulo the width
      __shfl_sync(kAll, value, 3, 8),
      __shfl_xor_sync(kAll, value, 1),
      __shfl_xor_sync(kAll, value, 24),
      __shfl_xor_sync(kAll, value, 12, 8),  // of a later group: its own
      __shfl_down_sync(kAll, value, 3),
      __shfl_down_sync(kAll, value, 3, 4),
      static_cast<int>(__ballot_sync(kAll, lane % 3 == 0)),
      __any_sync(kAll, lane == 31),
      __any_sync(kAll, 0),
      __all_sync(kAll, 2),
      __all_sync(kAll, lane != 7),
      static_cast<int>(__shfl_xor_sync(kAll, std::int64_t{1} << 32 | value, 2) >> 1),
  };
  constexpr int kResults = sizeof(results) / sizeof(int);
  for (int i = 0; i < kResults; ++i) {
    set_output(arguments, static_cast<unsigned>(lane * kResults + i), results[i]);
  }
}

// Lanes in two groups, each with a mask of its own, in different code.
__global__ void masks(const __grid_constant__ Arguments arguments) {
  const unsigned lane = threadIdx.x;
  const std::uint32_t address = ptx::shared_memory() + 4 * lane;
  ptx::store_shared(address, lane);
  unsigned result;
  if (lane < 8) {
    __syncwarp(0xffu);
    result = __ballot_sync(0xffu, lane > 3) + __float_as_uint(ptx::load_shared(address ^ 4));
  } else {
    result = __shfl_xor_sync(0xffffff00u, lane, 1);
    __syncwarp(0xffffff00u);
    result += __float_as_uint(ptx::load_shared(address ^ 4));
  }
  set_output(arguments, lane, result);
}

// A block of a warp and a half, of which some lanes have exited: they are not waited for.
__global__ void partial(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x % 4 == 3) return;
  __syncwarp();
  set_output(arguments, threadIdx.x, __ballot_sync(kAll, 1));
}

}  // namespace

SELFTEST_RUN(coordinates, dim3(3, 2), 32, 0)
SELFTEST_RUN(double_numbers, dim3(static_cast<unsigned>(option + 63) / 64), 64, 0)
SELFTEST_RUN(poison, dim3(3), 64, 256)
SELFTEST_RUN(order, dim3(5), 96, 0)
SELFTEST_RUN(reduce, dim3(1), 256, 1024)
SELFTEST_RUN(produce, dim3(1), 64, 128)
SELFTEST_RUN(pairs, dim3(1), 128, 512)
SELFTEST_RUN(chain, dim3(1), 96, 128)
SELFTEST_RUN(turns, dim3(1), 128, 0)
SELFTEST_RUN(exchange, dim3(1), 32, 0)
SELFTEST_RUN(masks, dim3(1), 32, 128)
SELFTEST_RUN(partial, dim3(1), 48, 0)

// Launches that CUDA refuses.
SELFTEST_EXPORT int run_launch(const void* input, void* output, int option) {
  const Arguments arguments{input, output, 0};
  switch (option) {
    case 0:
      return guide::cuda::launch_kernel<order>(dim3(1), 0, 0, nullptr, arguments);
    case 1:
      return guide::cuda::launch_kernel<order>(dim3(1), 1025, 0, nullptr, arguments);
    case 2:
      return guide::cuda::launch_kernel<order>(dim3(1, 65536), 32, 0, nullptr, arguments);
    case 3:
      return guide::cuda::launch_kernel<order>(dim3(0), 32, 0, nullptr, arguments);
    default:
      return guide::cuda::launch_kernel<order>(dim3(1), 32, 227 * 1024 + 1, nullptr, arguments);
  }
}

}  // namespace selftest
