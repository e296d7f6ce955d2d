// SPDX-License-Identifier: MIT
// Bringing rows near, into the second-level cache, while others are used.
#pragma once

#include "../elements-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace prefill {

template <class Element>
GUIDE_INLINE void prefetch_row(const typename Element::Storage* row, std::int64_t num_elements) {
  constexpr std::int64_t kLineElements = 64 / sizeof(typename Element::Storage);
  for (std::int64_t i = 0; i < num_elements; i += kLineElements) __builtin_prefetch(row + i, 0, 2);
}

// Rows of K or V that are wanted soon. Asked for all at once, they would fill the queues of the
// memory, and what is wanted now would wait: so a few at every micro-tile. Measured on 24 rows
// of fp32 and 4096 keys of 8 heads of 128, whose time memory sets (Zen 3): 1.4 times as fast.
template <class Element>
class UpcomingRows {
 public:
  GUIDE_INLINE UpcomingRows(const typename Element::Storage* first, std::int64_t stride,
                            std::int64_t num_elements, std::int64_t num_rows,
                            std::int64_t num_steps)
      : row_(first),
        stride_(stride),
        num_elements_(num_elements),
        rows_left_(num_rows),
        rows_per_step_(ceil_div(num_rows, num_steps)) {}

  GUIDE_INLINE void prefetch_some() {
    const std::int64_t num_rows = min_of(rows_per_step_, rows_left_);
    for (std::int64_t i = 0; i < num_rows; ++i, row_ += stride_) {
      prefetch_row<Element>(row_, num_elements_);
    }
    rows_left_ -= num_rows;
  }

  GUIDE_INLINE void prefetch_rest() {
    rows_per_step_ = rows_left_;
    prefetch_some();
  }

 private:
  const typename Element::Storage* row_;
  std::int64_t stride_;
  std::int64_t num_elements_;
  std::int64_t rows_left_;
  std::int64_t rows_per_step_;
};

}  // namespace prefill
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
