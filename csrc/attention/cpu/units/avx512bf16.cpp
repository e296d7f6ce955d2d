// SPDX-License-Identifier: MIT
#define GUIDE_CPU_NAMESPACE avx512bf16
#include "../backward/finish-inl.h"
#include "../decode/task-inl.h"
#include "../prefill/task-inl.h"

namespace guide::cpu {

extern const Kernel kKernelAvx512bf16;
const Kernel kKernelAvx512bf16{"avx512bf16",
                               avx512bf16::prefill::kRoutine,
                               avx512bf16::decode::kRoutine,
                               avx512bf16::backward::kRoutine,
                               48,
                               48};

}  // namespace guide::cpu
