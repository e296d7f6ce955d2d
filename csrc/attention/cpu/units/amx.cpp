// SPDX-License-Identifier: MIT
// Intel AMX: as avx512bf16, but tiles multiply bf16 where there are many rows.
#define GUIDE_CPU_NAMESPACE amx
#define GUIDE_CPU_AMX
#include "../backward/finish-inl.h"
#include "../decode/task-inl.h"
#include "../prefill/task-inl.h"

namespace guide::cpu {

extern const Kernel kKernelAmx;
// The rows up to which decoding is faster are those of AVX-512: never measured beside tiles.
const Kernel kKernelAmx{
    "amx", amx::prefill::kRoutine, amx::decode::kRoutine, amx::backward::kRoutine, 48, 48};

}  // namespace guide::cpu
