// SPDX-License-Identifier: MIT
#include "launch.h"

namespace guide::cuda {

// Defined in ptx.cuh for the kernels; here they only name the instances.
struct BFloat16;
struct Float16;

namespace sm80 {

namespace {

template <class Element, int kHeadDim>
cudaError_t launch_instance(const ForwardParams& params, Extras extras, cudaStream_t stream) {
  if (extras == Extras::kDense) return launch_dense_forward<Element, kHeadDim>(params, stream);
  return launch_forward<Element, kHeadDim>(params, extras, stream);
}

template <class Element>
cudaError_t launch_for_head_dim(const ForwardParams& params, Extras extras, cudaStream_t stream) {
  const AttentionParams& attention = params.attention;
  const std::int64_t head_dim =
      attention.head_dim > attention.head_dim_v ? attention.head_dim : attention.head_dim_v;
  if (head_dim <= 32) return launch_instance<Element, 32>(params, extras, stream);
  if (head_dim <= 64) return launch_instance<Element, 64>(params, extras, stream);
  if (head_dim <= 96) return launch_instance<Element, 96>(params, extras, stream);
  if (head_dim <= 128) return launch_instance<Element, 128>(params, extras, stream);
  if (head_dim <= kMaxHeadDim) return launch_instance<Element, 256>(params, extras, stream);
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t launch(const ForwardParams& params, Extras extras, cudaStream_t stream) {
  switch (params.attention.element_type) {
    case ElementType::kBFloat16:
      return launch_for_head_dim<BFloat16>(params, extras, stream);
    case ElementType::kFloat16:
      return launch_for_head_dim<Float16>(params, extras, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace sm80
}  // namespace guide::cuda
