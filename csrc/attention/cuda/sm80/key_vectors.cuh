// SPDX-License-Identifier: MIT
// The numbers that belong to a key: its bias and its influence in each channel.
//
// A block's numbers travel through registers: they are loaded while the block before it is
// computed, and stored to shared memory, the bias in bits, when that is done.
#pragma once

#include "../math.cuh"
#include "tile.cuh"
#include "traits.h"

namespace guide::cuda::sm80 {

template <class Traits>
class KeyVectors {
 public:
  GUIDE_DEVICE KeyVectors(const AttentionParams& params, int batch_idx, int head_idx,
                          std::uint32_t shared_memory)
      : shared_memory_(shared_memory + Traits::kVectorOffset) {
    // Threads take the vectors one after another, kBlockN numbers each: a thread's numbers belong
    // to the same key of the block, in vectors kVectorStep apart.
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) {
      const int vector = first_vector() + i * kVectorStep;
      sources_[i] = nullptr;
      if (vector == 0 && params.key_bias != nullptr) {
        sources_[i] = params.key_bias + batch_idx * params.key_bias_batch_stride +
                      head_idx * params.key_bias_head_stride;
      } else if (vector > 0 && vector <= channels(params)) {
        sources_[i] = params.influence + batch_idx * params.influence_batch_stride +
                      (vector - 1) * params.influence_channel_stride;
      }
    }
  }

  // Loads the numbers of the keys from k_begin on; those past the last key are 0.
  GUIDE_DEVICE void load(const AttentionParams& params, int k_begin) {
    const int k_idx = k_begin + key_of_block();
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) {
      const bool is_bias = first_vector() + i * kVectorStep == 0;
      numbers_[i] = 0.f;
      if (sources_[i] != nullptr && k_idx < params.seqlen_k) {
        const std::int64_t stride =
            is_bias ? params.key_bias_key_stride : params.influence_key_stride;
        numbers_[i] = ptx::load_global(sources_[i] + k_idx * stride);
      }
    }
  }

  GUIDE_DEVICE void store(int stage) const {
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) {
      const int vector = first_vector() + i * kVectorStep;
      // Every thread computes the bits, which costs less than a branch.
      const float bits = bias_in_unit<Math>(numbers_[i], kBitsPerNat);
      const float number = vector == 0 ? bits : numbers_[i];
      if (vector < kVectors) {
        ptx::store_shared(address(stage, vector, key_of_block()), number);
      }
    }
  }

  // Bias of two neighbouring keys of the block, in bits; `key` is even.
  GUIDE_DEVICE float2 bias_pair(int stage, int key) const {
    return ptx::load_shared_pair(address(stage, 0, key));
  }

  GUIDE_DEVICE float2 influence_pair(int stage, int channel, int key) const {
    return ptx::load_shared_pair(address(stage, 1 + channel, key));
  }

  // How many channels the call has, a constant where the instance knows it.
  static GUIDE_DEVICE int channels(const AttentionParams& params) {
    return Traits::kIsGeneral ? static_cast<int>(params.channels) : Traits::kChannels;
  }

 private:
  static constexpr int kVectors = 1 + Traits::kChannels;
  static constexpr int kVectorStep = Traits::kThreads / Traits::kBlockN;
  static constexpr int kNumbers = (kVectors + kVectorStep - 1) / kVectorStep;
  static_assert(Traits::kThreads % Traits::kBlockN == 0, "whole vectors at a time");

  static GUIDE_DEVICE int first_vector() { return static_cast<int>(threadIdx.x / Traits::kBlockN); }
  static GUIDE_DEVICE int key_of_block() { return static_cast<int>(threadIdx.x % Traits::kBlockN); }

  GUIDE_DEVICE std::uint32_t address(int stage, int vector, int key) const {
    return shared_memory_ + static_cast<std::uint32_t>(stage * Traits::kVectorStageBytes +
                                                       (vector * Traits::kBlockN + key) * 4);
  }

  std::uint32_t shared_memory_;
  const float* sources_[kNumbers];  // of this batch, head and channel; null: zeros
  float numbers_[kNumbers];
};

}  // namespace guide::cuda::sm80
