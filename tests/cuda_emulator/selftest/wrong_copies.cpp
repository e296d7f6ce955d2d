// SPDX-License-Identifier: MIT
// Planted errors: asynchronous copies. Thread 5 of each kernel copies to offset 80.
#include "selftest.h"

namespace selftest {
namespace {

constexpr unsigned kCopier = 5;

GUIDE_DEVICE std::uint32_t target() { return ptx::shared_memory() + 80; }

GUIDE_DEVICE void copy_chunk(const Arguments& arguments) {
  ptx::copy_async_chunk(target(), arguments.input, 16);
}

__global__ void copy_to_misaligned(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x != kCopier) return;
  ptx::copy_async_chunk(target() + 8, arguments.input, 16);
}

__global__ void copy_from_misaligned(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x != kCopier) return;
  ptx::copy_async_chunk(target(), static_cast<const char*>(arguments.input) + 4, 16);
}

__global__ void copy_out_of_bounds(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x != kCopier) return;
  ptx::copy_async_chunk(ptx::shared_memory() + 1024, arguments.input, 16);
}

__global__ void copy_too_much(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x != kCopier) return;
  ptx::copy_async_chunk(target(), arguments.input, 17);
}

__global__ void never_waited_for(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x != kCopier) return;
  copy_chunk(arguments);
  ptx::copy_async_commit();
}

__global__ void never_committed(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x != kCopier) return;
  copy_chunk(arguments);
  ptx::copy_async_wait<0>();  // for nothing
}

__global__ void read_under_way(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x != kCopier) return;
  copy_chunk(arguments);
  ptx::copy_async_commit();
  set_output(arguments, 0, ptx::load_shared(target() + 4));
  ptx::copy_async_wait<0>();
}

__global__ void read_under_way_by_others(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x == kCopier) copy_chunk(arguments);
  ptx::copy_async_commit();
  __syncthreads();
  if (threadIdx.x == 35) set_output(arguments, 0, ptx::load_shared(target() + 4));
  __syncthreads();
  ptx::copy_async_wait<0>();
}

__global__ void write_under_way(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x != kCopier) return;
  copy_chunk(arguments);
  ptx::copy_async_commit();
  ptx::store_shared(target() + 4, 1.0f);
  ptx::copy_async_wait<0>();
}

__global__ void copy_over_copy(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x != kCopier) return;
  copy_chunk(arguments);
  copy_chunk(arguments);
  ptx::copy_async_commit();
  ptx::copy_async_wait<0>();
}

__global__ void wait_for_too_few(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x != kCopier) return;
  ptx::copy_async_chunk(target() + 16, arguments.input, 16);
  ptx::copy_async_commit();
  copy_chunk(arguments);
  ptx::copy_async_commit();
  ptx::copy_async_wait<1>();
  set_output(arguments, 0, ptx::load_shared(target() + 4));
  ptx::copy_async_wait<0>();
}

// The wait is the copier's own; others need a barrier after it.
__global__ void copy_without_barrier(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x == kCopier) copy_chunk(arguments);
  ptx::copy_async_commit();
  ptx::copy_async_wait<0>();
  // Missing: __syncthreads()
  if (threadIdx.x == 35) set_output(arguments, 0, ptx::load_shared(target() + 4));
}

__global__ void copy_over_reads(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x == 35) set_output(arguments, 0, ptx::load_shared(target() + 4));
  // Missing: __syncthreads()
  if (threadIdx.x == kCopier) copy_chunk(arguments);
  ptx::copy_async_commit();
  ptx::copy_async_wait<0>();
}

// 20 bytes from the begin of the input are registered, the last 4 of which are the last.
__global__ void copy_from_out_of_bounds(const __grid_constant__ Arguments arguments) {
  if (threadIdx.x != kCopier) return;
  const char* source = static_cast<const char*>(arguments.input) + 16;
  ptx::copy_async_chunk(target(), source, 4);
  ptx::copy_async_chunk(target() + 16, source, 8);
  ptx::copy_async_commit();
  ptx::copy_async_wait<0>();
}

}  // namespace

SELFTEST_RUN(copy_to_misaligned, dim3(1), 64, 1024)
SELFTEST_RUN(copy_from_misaligned, dim3(1), 64, 1024)
SELFTEST_RUN(copy_out_of_bounds, dim3(1), 64, 1024)
SELFTEST_RUN(copy_too_much, dim3(1), 64, 1024)
SELFTEST_RUN(never_waited_for, dim3(1), 64, 1024)
SELFTEST_RUN(never_committed, dim3(1), 64, 1024)
SELFTEST_RUN(read_under_way, dim3(1), 64, 1024)
SELFTEST_RUN(read_under_way_by_others, dim3(1), 64, 1024)
SELFTEST_RUN(write_under_way, dim3(1), 64, 1024)
SELFTEST_RUN(copy_over_copy, dim3(1), 64, 1024)
SELFTEST_RUN(wait_for_too_few, dim3(1), 64, 1024)
SELFTEST_RUN(copy_without_barrier, dim3(1), 64, 1024)
SELFTEST_RUN(copy_over_reads, dim3(1), 64, 1024)
SELFTEST_RUN(copy_from_out_of_bounds, dim3(1), 64, 1024)

}  // namespace selftest
