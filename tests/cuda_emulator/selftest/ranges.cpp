// SPDX-License-Identifier: MIT
// The ranges of global memory, for Python.
#include "selftest.h"

SELFTEST_EXPORT void add_global_range(const void* begin, std::size_t bytes, const char* name,
                                      int is_writable) {
  cuda_emulator::add_global_range(begin, bytes, name, is_writable != 0);
}

SELFTEST_EXPORT void clear_global_ranges() { cuda_emulator::clear_global_ranges(); }
