// SPDX-License-Identifier: MIT
// The CUDA emulator as kernels see it: CUDA's own words, the instructions behind ptx.cuh, a launch.
//
// It runs kernel source on the CPU, one fiber per CUDA thread and one thread block at a time, and
// reports what a GPU would leave undefined: races, misuse of barriers, accesses out of bounds. What
// each instruction does is said where it is implemented, under runtime/. See README.md.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda_types.h"

namespace cuda_emulator {

// ---- Where a thread is -----------------------------------------------------------------------

struct Index {
  unsigned x, y, z;
};

const Index& thread_index();
const Index& block_index();
const dim3& block_dim();
const dim3& grid_dim();
int lane_index();

// ---- Memory ----------------------------------------------------------------------------------

// Address of the dynamic shared memory. Not 0, so that no kernel can take an offset for an address.
std::uint32_t shared_memory();
void load_shared(std::uint32_t address, void* value, int bytes);
void store_shared(std::uint32_t address, const void* value, int bytes);

// Whether a kernel may touch these bytes of global memory; if not, a report says why.
bool check_global(const void* address, int bytes, bool is_write);

// What kernels may touch. Nothing is checked while there are no ranges.
void add_global_range(const void* begin, std::size_t bytes, const char* name, bool is_writable);
void clear_global_ranges();

// ---- Asynchronous copies ---------------------------------------------------------------------

void copy_async(std::uint32_t shared_address, const void* source, int bytes, int source_bytes);
void copy_async_commit();
void copy_async_wait(int groups_left);

// ---- Barriers and warps ----------------------------------------------------------------------

// `threads` < 0: all threads of the block.
void bar_sync(int id, int threads);
void bar_arrive(int id, int threads);
void sync_warp(std::uint32_t mask);
void shuffle(std::uint32_t mask, const void* in, void* out, int bytes, int source_lane);
std::uint32_t ballot(std::uint32_t mask, bool predicate);

// ---- Matrices --------------------------------------------------------------------------------

void load_matrices(std::uint32_t* registers, int count, bool transposed, std::uint32_t address);
void mma_m16n8k16(bool is_bfloat16, float* sums, const std::uint32_t* a, const std::uint32_t* b);

// ---- Numbers ---------------------------------------------------------------------------------

std::uint32_t pack(bool is_bfloat16, float low, float high);
float from_float16(std::uint16_t bits);
float exp2(float x);
float max_or_nan(float a, float b);

// ---- Launches --------------------------------------------------------------------------------

namespace detail {
using KernelBody = void (*)(const void* params);
cudaError_t run_grid(const char* launch_signature, dim3 grid, unsigned threads,
                     std::size_t shared_bytes, KernelBody body, const void* params);
}  // namespace detail

// Runs the whole grid before it returns. Errors of the kernel become reports, never an exception or
// an error code; those of the launch are what CUDA would say of it.
template <auto kKernel, class Params>
cudaError_t launch(dim3 grid, unsigned threads, std::size_t shared_bytes, Params params) {
#ifdef GUIDE_CUDA_EMULATED_PTX
  // The symbol is the kernel's, the definition that of the translated PTX. By way of void(): g++
  // warns of any other cast between function types, and rightly so.
  const auto body = reinterpret_cast<detail::KernelBody>(reinterpret_cast<void (*)()>(kKernel));
#else
  const detail::KernelBody body = [](const void* values) {
    kKernel(*static_cast<const Params*>(values));
  };
#endif
  return detail::run_grid(__PRETTY_FUNCTION__, grid, threads, shared_bytes, body, &params);
}

}  // namespace cuda_emulator

#include "cuda_builtins.h"
