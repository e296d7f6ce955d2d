// SPDX-License-Identifier: MIT
// A check at run time, for instruction sets that no machine of ours has run.
#pragma once

#include <string>

#include "kernel.h"

namespace guide::cpu {

// Computes a few small bfloat16 problems by the prefill of both kernels. Returns the first result
// that differs by more than rounding, in words; nothing if there is none.
std::string find_difference(const Kernel& kernel, const Kernel& trusted);

}  // namespace guide::cpu
