// SPDX-License-Identifier: MIT
// Which tensors the kernels copy in whole pieces.
#pragma once

#include "../params.h"

namespace guide::cuda {

constexpr std::int64_t kCopyBytes = 16;
constexpr std::int64_t kCopyElements = kCopyBytes / 2;

// Whether every row of a 16-bit tensor starts at a multiple of 16 bytes and is one in length.
inline bool is_aligned(const void* tensor, const RowStrides& strides, std::int64_t row_elements) {
  return reinterpret_cast<std::uintptr_t>(tensor) % kCopyBytes == 0 &&
         strides.batch % kCopyElements == 0 && strides.head % kCopyElements == 0 &&
         strides.row % kCopyElements == 0 && row_elements % kCopyElements == 0;
}

}  // namespace guide::cuda
