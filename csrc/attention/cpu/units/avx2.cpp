// SPDX-License-Identifier: MIT
#define GUIDE_CPU_NAMESPACE avx2
#include "../backward/finish-inl.h"
#include "../decode/task-inl.h"
#include "../prefill/task-inl.h"

namespace guide::cpu {

extern const Kernel kKernelAvx2;
const Kernel kKernelAvx2{
    "avx2", avx2::prefill::kRoutine, avx2::decode::kRoutine, avx2::backward::kRoutine, 9, 12};

}  // namespace guide::cpu
