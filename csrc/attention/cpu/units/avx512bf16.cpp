// SPDX-License-Identifier: MIT
#define GUIDE_CPU_NAMESPACE avx512bf16
#include "../decode/task-inl.h"
#include "../prefill/task-inl.h"

namespace guide::cpu {

extern const Kernel kKernelAvx512bf16;
const Kernel kKernelAvx512bf16{"avx512bf16", avx512bf16::prefill::kRoutine,
                               avx512bf16::decode::kRoutine};

}  // namespace guide::cpu
