// SPDX-License-Identifier: MIT
#define GUIDE_CPU_NAMESPACE avx512
#include "forward-inl.h"

namespace guide::cpu {

extern const Kernel kKernelAvx512;
const Kernel kKernelAvx512{"avx512", avx512::make_plan, avx512::run_task, avx512::merge_group};

}  // namespace guide::cpu
