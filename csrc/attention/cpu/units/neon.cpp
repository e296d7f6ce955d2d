// SPDX-License-Identifier: MIT
#define GUIDE_CPU_NEON
#define GUIDE_CPU_NAMESPACE neon
#include "../backward/finish-inl.h"
#include "../decode/task-inl.h"
#include "../prefill/task-inl.h"

namespace guide::cpu {

extern const Kernel kKernelNeon;
// The rows up to which decoding is faster were never measured on ARM.
const Kernel kKernelNeon{
    "neon", neon::prefill::kRoutine, neon::decode::kRoutine, neon::backward::kRoutine, 48, 48};

}  // namespace guide::cpu
