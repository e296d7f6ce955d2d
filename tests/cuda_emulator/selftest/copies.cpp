// SPDX-License-Identifier: MIT
// Asynchronous copies: right uses.
#include "selftest.h"

namespace selftest {
namespace {

// Each thread copies 16 bytes, of which 0, 8 or 16 come from the source, and gives back those of
// its neighbour. A source of 0 bytes may be anywhere.
__global__ void copy_parts(const __grid_constant__ Arguments arguments) {
  const unsigned thread = threadIdx.x;
  const std::uint32_t shared = ptx::shared_memory();
  const auto* source = static_cast<const char*>(arguments.input);
  const int source_bytes = static_cast<int>(thread % 3) * 8;
  ptx::copy_async_chunk(shared + 16 * thread, source_bytes == 0 ? nullptr : source + 16 * thread,
                        source_bytes);
  ptx::copy_async_commit();
  ptx::copy_async_wait<0>();
  __syncthreads();
  set_output(arguments, thread, ptx::load_shared_chunk(shared + 16 * (thread ^ 1)));
}

// Input: `option` rows of 64 chunks. Two rows travel while one is added up, in three stages.
__global__ void pipeline(const __grid_constant__ Arguments arguments) {
  constexpr int kStages = 3, kThreads = 64;
  const unsigned thread = threadIdx.x;
  const auto* source = static_cast<const uint4*>(arguments.input);
  const auto address = [&](int row, unsigned chunk) {
    const auto stage = static_cast<unsigned>(row % kStages);
    return ptx::shared_memory() + (stage * kThreads + chunk) * 16;
  };
  const auto start = [&](int row) {
    if (row < arguments.option) {
      ptx::copy_async_chunk(address(row, thread), source + row * kThreads + thread, 16);
    }
    ptx::copy_async_commit();
  };
  uint4 sum{};
  start(0);
  start(1);
  for (int row = 0; row < arguments.option; ++row) {
    ptx::copy_async_wait<1>();
    __syncthreads();
    start(row + 2);
    const uint4 chunk = ptx::load_shared_chunk(address(row, (thread + 1) % kThreads));
    sum = make_uint4(sum.x + chunk.x, sum.y + chunk.y, sum.z + chunk.z, sum.w + chunk.w);
  }
  set_output(arguments, thread, sum);
}

// Three groups, waited for one after the other; each may be read by its own thread at once. The
// output has what is there, or zeros where a group must not be read yet.
__global__ void groups(const __grid_constant__ Arguments arguments) {
  const std::uint32_t mine = ptx::shared_memory() + 64 * threadIdx.x;
  const auto* source = static_cast<const uint4*>(arguments.input);
  for (unsigned group = 0; group < 3; ++group) {
    ptx::copy_async_chunk(mine + 16 * group, source + group, 16);
    ptx::copy_async_commit();
  }
  const auto give = [&](unsigned group) {
    set_output(arguments, threadIdx.x * 3 + group, ptx::load_shared_chunk(mine + 16 * group));
  };
  ptx::copy_async_wait<2>();
  give(0);
  ptx::copy_async_wait<1>();
  give(1);
  ptx::copy_async_wait<0>();
  give(2);
}

// Copies of the smaller sizes that PTX has.
__global__ void copy_small(const __grid_constant__ Arguments arguments) {
  const std::uint32_t shared = ptx::shared_memory();
  const auto* source = static_cast<const char*>(arguments.input);
  cuda_emulator::copy_async(shared + 4, source + 4, 4, 4);
  cuda_emulator::copy_async(shared + 8, source + 8, 8, 5);
  ptx::copy_async_commit();
  ptx::copy_async_wait<0>();
  for (unsigned i = 1; i < 4; ++i) {
    set_output(arguments, i, ptx::load_shared(shared + 4 * i));
  }
}

}  // namespace

SELFTEST_RUN(copy_parts, dim3(1), 96, 96 * 16)
SELFTEST_RUN(pipeline, dim3(2), 64, 3 * 64 * 16)
SELFTEST_RUN(groups, dim3(1), 64, 64 * 64)
SELFTEST_RUN(copy_small, dim3(1), 1, 16)

}  // namespace selftest
