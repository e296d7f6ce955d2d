// SPDX-License-Identifier: MIT
// Arithmetic of a softmax whose keys arrive in blocks.
//
// The state of a row is (row_max, row_sum, weighted sums), where every weight is
// exp(score - row_max). Two states of one row merge by scaling both to the common maximum. A row
// that has seen no key has row_max = -inf and sums of 0; a NaN never enters row_max, it reaches
// row_sum and so the whole row.
#pragma once

#include "score_mod.h"

namespace guide {

// What exponents are measured from. The maximum, except for a row without keys, where -inf would
// give exp(-inf - (-inf)) = NaN instead of 0.
template <class Math, class Number>
GUIDE_HOST_DEVICE Number exponent_origin(Number row_max) {
  return Math::select_equal(row_max, Math::negative_infinity(), Math::broadcast(0.f), row_max);
}

// Factor that takes sums measured from `old_max` to sums measured from `new_max` >= `old_max`.
// Exactly 1 where the maximum did not grow, so a row's bits do not depend on its neighbours.
template <class Math, class Number>
GUIDE_HOST_DEVICE Number rescale_factor(Number old_max, Number new_max) {
  return Math::exp(Math::sub(old_max, exponent_origin<Math, Number>(new_max)));
}

}  // namespace guide
