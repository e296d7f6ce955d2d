// SPDX-License-Identifier: MIT
// Sizes of an instance: the one place to change when a GPU says that another tile is faster.
#pragma once

#include "../forward_params.h"

namespace guide::cuda::sm80 {

// What an instance computes besides out and lse.
enum class Extras {
  kNone,         // key_bias alone
  kOneChannel,   // and one influence channel
  kTwoChannels,  // and two
  kGeneral,      // and up to kMaxChannels of them, also of rows that are not aligned
  kDense         // and a dense attn_bias
};

template <class Element_, int kHeadDim_, Extras kExtras>
struct Traits {
  using Element = Element_;  // BFloat16 or Float16
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr bool kIsDense = kExtras == Extras::kDense;
  static constexpr bool kIsGeneral = kExtras == Extras::kGeneral || kIsDense;
  static constexpr int kChannels =
      kIsGeneral ? static_cast<int>(kMaxChannels) : static_cast<int>(kExtras);

  // A warp holds kRowTiles times 16 queries. With 32 it reads K and V from shared memory half as
  // often, which is what bounds the loop (docs/cuda_kernels.md); from head_dim 96 on their sums do
  // not fit in 255 registers on every GPU, and at 32 the exponentials bound the loop anyway.
  static constexpr int kRowTiles = kHeadDim == 64 ? 2 : 1;
  static constexpr int kWarps = kHeadDim == 96 || kHeadDim == 128 ? 8 : 4;
  static constexpr int kBlockM = kWarps * kRowTiles * 16;
  static constexpr int kThreads = kWarps * 32;
  // Thread blocks that must fit on a multiprocessor, which bounds the registers.
  static constexpr int kMinBlocks = kHeadDim == 32 && !kIsGeneral ? 4 : 1;
  // Keys of a block: as many as leave every sum in a register. The same for all numbers of
  // channels, so that asking for influence changes no bit of out.
  static constexpr int kBlockN = kHeadDim == 96 || (kHeadDim == 128 && !kIsDense) ? 64
                                 : kHeadDim == 256 && kIsDense                    ? 16
                                                                                  : 32;

  static constexpr int kStages = 2;
  static constexpr int kTileBytes = kBlockN * kHeadDim * 2;  // of K or of V
  static constexpr int kStageBytes = 2 * kTileBytes;
  static constexpr int kQueryBytes = kBlockM * kHeadDim * 2;
  static constexpr int kVectorStageBytes = (1 + kChannels) * kBlockN * 4;

  // Queries stay in registers where there is room; they arrive in the stage of the second block of
  // keys and leave it before that comes. Elsewhere they have a tile of their own.
  static constexpr bool kQueryInRegisters =
      (kHeadDim == 96 || kHeadDim == 128) && kQueryBytes <= kStageBytes;

  // Shared memory: stages of K and V, queries, stages of bias and influence.
  static constexpr int kQueryOffset = kStages * kStageBytes;
  static constexpr int kVectorOffset = kQueryOffset + (kQueryInRegisters ? 0 : kQueryBytes);
  static constexpr int kSharedBytes = kVectorOffset + kStages * kVectorStageBytes;

  // Once all keys are seen, out is staged from the beginning of shared memory on.
  static_assert(kQueryBytes <= kSharedBytes, "out is as large as the queries");
  static_assert(kSharedBytes <= 99 * 1024, "sm_86, sm_89 and sm_120 have 99 KiB for a block");
};

}  // namespace guide::cuda::sm80
