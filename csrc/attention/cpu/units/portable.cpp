// SPDX-License-Identifier: MIT
#define GUIDE_CPU_NAMESPACE portable
#include "../backward/finish-inl.h"
#include "../decode/task-inl.h"
#include "../prefill/task-inl.h"

namespace guide::cpu {

extern const Kernel kKernelPortable;
const Kernel kKernelPortable{"portable",
                             portable::prefill::kRoutine,
                             portable::decode::kRoutine,
                             portable::backward::kRoutine,
                             48,
                             48};

}  // namespace guide::cpu
