// SPDX-License-Identifier: MIT
// Entry point of the CPU backend.
#pragma once

#include "choose.h"
#include "workers.h"

namespace guide::cpu {

// Computes out, influence_out and lse of one call with what choose() found for it, which must be a
// kernel. Throws OutOfMemory, with nothing written yet.
void forward(const AttentionParams& params, const Choice& choice, const ThreadPool& pool);

}  // namespace guide::cpu
