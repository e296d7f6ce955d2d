// SPDX-License-Identifier: MIT
#include "../forward.cuh"

namespace guide::cuda::sm80 {
template cudaError_t launch_dense_forward<BFloat16, 96>(const ForwardParams& params,
                                                        cudaStream_t stream);
template cudaError_t launch_dense_forward<Float16, 96>(const ForwardParams& params,
                                                       cudaStream_t stream);
}  // namespace guide::cuda::sm80
