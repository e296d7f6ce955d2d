// SPDX-License-Identifier: MIT
#define GUIDE_CPU_NAMESPACE avx2
#include "forward-inl.h"

namespace guide::cpu {

extern const Kernel kKernelAvx2;
const Kernel kKernelAvx2{"avx2", avx2::make_plan, avx2::run_task, avx2::merge_group};

}  // namespace guide::cpu
