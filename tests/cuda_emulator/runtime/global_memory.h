// SPDX-License-Identifier: MIT
// The ranges of global memory that kernels may touch.
#pragma once

namespace cuda_emulator {

// Whether the running thread may touch these bytes; if not, a report says why.
bool check_global_range(const void* address, int bytes, bool is_write, const char* what);

}  // namespace cuda_emulator
