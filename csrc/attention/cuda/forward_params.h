// SPDX-License-Identifier: MIT
// What a forward kernel is launched with.
#pragma once

#include "../score_mod.h"

namespace guide::cuda {

// At most kMaxChannels influence channels.
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

}  // namespace guide::cuda
