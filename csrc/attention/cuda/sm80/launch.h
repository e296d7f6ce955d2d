// SPDX-License-Identifier: MIT
// How a call reaches an instance of the kernel.
//
// The launchers of each instance are defined in a file of its own under instances/, so that they
// compile in parallel and none of the files takes more than seconds.
#pragma once

#include "../runtime.h"
#include "traits.h"

namespace guide::cuda::sm80 {

// Largest head_dim and head_dim_v that an instance takes.
constexpr std::int64_t kMaxHeadDim = 256;
// Influence channels up to which there are extras that do nothing else.
constexpr std::int64_t kMaxFastChannels = 2;
static_assert(static_cast<Extras>(kMaxFastChannels) == Extras::kTwoChannels);

// Launches the instance for the element type and the head dimensions of a call.
cudaError_t launch(const ForwardParams& params, Extras extras, cudaStream_t stream);

// Launch an instance for heads of up to kHeadDim: with any extras but kDense, and with that.
template <class Element, int kHeadDim>
cudaError_t launch_forward(const ForwardParams& params, Extras extras, cudaStream_t stream);
template <class Element, int kHeadDim>
cudaError_t launch_dense_forward(const ForwardParams& params, cudaStream_t stream);

}  // namespace guide::cuda::sm80
