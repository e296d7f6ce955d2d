// SPDX-License-Identifier: MIT
// Problem: kernels take some choices as template arguments, callers know them at run time.
// Solution: call a generic lambda with the choice as a compile-time constant.
//
//   with_bool(params.softcap != 0.f, [&](auto softcap) { run<softcap.value>(params); });
//
// A lambda's type is local to its translation unit, so these templates never give two units a
// common symbol, whatever instruction set each is compiled for.
#pragma once

#include "score_mod.h"

namespace guide {

template <bool kValue>
struct BoolConstant {
  static constexpr bool value = kValue;
};

template <ElementType kValue>
struct ElementTypeConstant {
  static constexpr ElementType value = kValue;
};

template <class Function>
GUIDE_HOST_DEVICE void with_bool(bool value, const Function& function) {
  if (value) {
    function(BoolConstant<true>{});
  } else {
    function(BoolConstant<false>{});
  }
}

// For the element types that have a kernel.
template <class Function>
GUIDE_HOST_DEVICE void with_element_type(ElementType type, const Function& function) {
  switch (type) {
    case ElementType::kBFloat16:
      return function(ElementTypeConstant<ElementType::kBFloat16>{});
    case ElementType::kFloat16:
      return function(ElementTypeConstant<ElementType::kFloat16>{});
    default:
      return function(ElementTypeConstant<ElementType::kFloat32>{});
  }
}

}  // namespace guide
