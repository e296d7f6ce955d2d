// SPDX-License-Identifier: MIT
// Entry point of the gradients on the CPU.
#pragma once

#include "../backward_params.h"
#include "choose.h"
#include "workers.h"

namespace guide::cpu {

// Computes the gradients of one call with the kernel that choose_backward() found for it. Throws
// OutOfMemory, with nothing written yet.
void backward(const BackwardParams& params, const Kernel& kernel, const ThreadPool& pool);

}  // namespace guide::cpu
