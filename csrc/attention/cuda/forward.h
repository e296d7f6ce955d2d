// SPDX-License-Identifier: MIT
// Entry point of the CUDA backend.
#pragma once

#include "../params.h"
#include "runtime.h"

namespace guide::cuda {

// Oldest architecture that the kernels run on, as major * 10 + minor.
constexpr int kMinArchitecture = 80;

// Whether a kernel takes a call of these sizes and types; pointers and strides do not matter.
bool has_kernel(const AttentionParams& params);

// Enqueues one call that has a kernel on a stream of the current device. Nothing is allocated and
// nothing waits. Any number of influence channels: the kernels take up to eight at a time, and a
// call with more runs once for every eight.
cudaError_t forward(const AttentionParams& params, cudaStream_t stream);

}  // namespace guide::cuda
