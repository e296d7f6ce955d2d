// SPDX-License-Identifier: MIT
#define GUIDE_CPU_NAMESPACE avx512bf16
#include "forward-inl.h"

namespace guide::cpu {

extern const Kernel kKernelAvx512bf16;
const Kernel kKernelAvx512bf16{"avx512bf16", avx512bf16::make_plan, avx512bf16::run_task,
                               avx512bf16::merge_group};

}  // namespace guide::cpu
