// SPDX-License-Identifier: MIT
// Launches of translated kernels from Python: see ../ptx/selftest/harness.py.
#include <cstddef>

#include "cuda_emulator.h"

#define PTX_EXPORT extern "C" __attribute__((visibility("default")))

PTX_EXPORT int ptx_launch(const char* name, cuda_emulator::detail::KernelBody kernel,
                          unsigned blocks, unsigned threads, std::size_t shared_bytes,
                          const void* params) {
  return cuda_emulator::detail::run_grid(name, dim3(blocks), threads, shared_bytes, kernel, params);
}

PTX_EXPORT void ptx_add_range(const void* begin, std::size_t bytes, const char* name,
                              bool is_writable) {
  cuda_emulator::add_global_range(begin, bytes, name, is_writable);
}

PTX_EXPORT void ptx_clear_ranges() { cuda_emulator::clear_global_ranges(); }
