// SPDX-License-Identifier: MIT
#define GUIDE_CPU_NEON
#define GUIDE_CPU_NAMESPACE neon
#include "../backward/finish-inl.h"
#include "../decode/task-inl.h"
#include "../prefill/task-inl.h"

namespace guide::cpu {

extern const Kernel kKernelNeon;
const Kernel kKernelNeon{"neon", neon::prefill::kRoutine, neon::decode::kRoutine,
                         neon::backward::kRoutine};

}  // namespace guide::cpu
