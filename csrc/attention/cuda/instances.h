// SPDX-License-Identifier: MIT
// What a kernel is launched with, and the launchers of all instances.
//
// Each launcher is defined in a .cu file of its own, so that the instances compile in parallel and
// none of the files takes more than seconds.
#pragma once

#include "../score_mod.h"
#include "runtime.h"

namespace guide::cuda {

// Parameters of a kernel. At most kMaxChannels influence channels.
struct ForwardParams {
  AttentionParams attention;
  ScoreFactors factors;                     // to bits
  std::int64_t influence_out_batch_stride;  // more than one launch may share influence_out
  std::int32_t num_m_blocks;                // blocks of queries of one head
  // Whether rows can be copied in pieces of 16 bytes: pointer and strides are multiples of that.
  bool query_is_aligned;
  bool key_is_aligned;
  bool value_is_aligned;
  bool out_is_aligned;
};

constexpr std::int64_t kMaxChannels = 8;

namespace sm80 {

// Launch an instance for heads of up to kHeadDim: without a dense attn_bias, and with one.
template <class Element, int kHeadDim>
cudaError_t launch_forward(const ForwardParams& params, cudaStream_t stream);
template <class Element, int kHeadDim>
cudaError_t launch_dense_forward(const ForwardParams& params, cudaStream_t stream);

}  // namespace sm80
}  // namespace guide::cuda
