// SPDX-License-Identifier: MIT
#define GUIDE_CPU_NAMESPACE portable
#include "forward-inl.h"

namespace guide::cpu {

extern const Kernel kKernelPortable;
const Kernel kKernelPortable{"portable", portable::make_plan, portable::run_task,
                             portable::merge_group};

}  // namespace guide::cpu
