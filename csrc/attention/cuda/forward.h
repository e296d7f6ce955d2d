// SPDX-License-Identifier: MIT
// Entry point of the CUDA backend.
#pragma once

#include "choose.h"

namespace guide::cuda {

// Enqueues one call that has a kernel (choose.h) on a stream of the current device, which is
// `device`. Nothing is allocated and nothing waits. Any number of influence channels: the kernels
// take up to eight at a time, and a call with more runs once for every eight.
cudaError_t forward(const AttentionParams& params, const Device& device, cudaStream_t stream);

}  // namespace guide::cuda
