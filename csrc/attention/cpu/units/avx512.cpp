// SPDX-License-Identifier: MIT
#define GUIDE_CPU_NAMESPACE avx512
#include "../backward/finish-inl.h"
#include "../decode/task-inl.h"
#include "../prefill/task-inl.h"

namespace guide::cpu {

extern const Kernel kKernelAvx512;
const Kernel kKernelAvx512{
    "avx512", avx512::prefill::kRoutine, avx512::decode::kRoutine, avx512::backward::kRoutine, 48,
    48};

}  // namespace guide::cpu
