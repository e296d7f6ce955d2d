// SPDX-License-Identifier: MIT
// Small kernels that tests/cuda/test_emulator*.py run by name: right ones, whose values they check,
// and wrong ones, of which the emulator must say what is wrong.
#pragma once

#include "attention/cuda/ptx.cuh"

#define SELFTEST_EXPORT extern "C" __attribute__((visibility("default")))

namespace selftest {

namespace ptx = guide::cuda::ptx;

struct Arguments {
  const void* input;
  void* output;
  int option;
};

// Element `index` of an array that the caller knows to be of this type.
template <class Value>
GUIDE_DEVICE Value input(const Arguments& arguments, unsigned index) {
  return ptx::load_global(static_cast<const Value*>(arguments.input) + index);
}

template <class Value>
GUIDE_DEVICE void set_output(const Arguments& arguments, unsigned index, Value value) {
  ptx::store_global(static_cast<Value*>(arguments.output) + index, value);
}

}  // namespace selftest

// Makes the kernel `name` of this namespace callable as run_<name>(input, output, option), which
// returns the cudaError_t of the launch.
#define SELFTEST_RUN(name, grid, threads, shared_bytes)                                  \
  SELFTEST_EXPORT int run_##name(const void* input, void* output, int option) {          \
    return guide::cuda::launch_kernel<name>(grid, threads, shared_bytes, nullptr,        \
                                            selftest::Arguments{input, output, option}); \
  }
