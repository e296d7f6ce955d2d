// SPDX-License-Identifier: MIT
// Which kernel computes a call, and why no faster one does: the one home of both. The op asks for
// the whole call, before it allocates. forward() asks again for each pass of up to eight channels,
// and launches what it gets. explain_dispatch reads the reasons.
//
// A further kernel is a row of the table in choose.cpp.
#pragma once

#include <string>

#include "../reasons.h"
#include "forward_params.h"
#include "runtime.h"

namespace guide::cuda {

struct Device {
  int architecture;      // major * 10 + minor
  std::string obstacle;  // why the CUDA runtime cannot use it; empty if it can
};

struct Choice {
  const char* kernel;  // "cuda/sm80"; null: no kernel takes the call
  cudaError_t (*launch)(const ForwardParams& params, cudaStream_t stream);
};

// Looks at sizes, types, strides and addresses, never at memory; an address of null counts as
// aligned. `reasons`, if given, gets what keeps the call from a faster kernel, or from any.
Choice choose(const AttentionParams& params, const Device& device, Reasons* reasons = nullptr);

}  // namespace guide::cuda
