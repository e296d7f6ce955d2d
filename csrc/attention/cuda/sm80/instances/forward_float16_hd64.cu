// SPDX-License-Identifier: MIT
#include "../forward.cuh"

namespace guide::cuda::sm80 {
template cudaError_t launch_forward<Float16, 64>(const ForwardParams& params, Extras extras,
                                                 cudaStream_t stream);
}  // namespace guide::cuda::sm80
