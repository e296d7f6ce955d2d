// SPDX-License-Identifier: MIT
// Which kernel computes a call, and why no faster one does: the one home of both. The op asks once,
// before it allocates, and gives forward() or backward() the answer; explain_dispatch reads the
// reasons.
#pragma once

#include <stdexcept>
#include <string>

#include "../reasons.h"
#include "kernel.h"

namespace guide::cpu {

struct Choice {
  const Kernel* kernel;  // null: none takes the call
  const Routine* routine;
};

// Looks at sizes and types alone. `reasons`, if given, gets what keeps the call from a faster
// kernel, or from any. Throws as chosen_instruction_set() does, for a call that a kernel takes.
Choice choose(const AttentionParams& params, Reasons* reasons = nullptr);

// The same for the gradients: null where chunked PyTorch computes them. `wants_attn_bias`: is there
// to be one of attn_bias?
const Kernel* choose_backward(const AttentionParams& params, bool wants_attn_bias,
                              Reasons* reasons = nullptr);

// GUIDE_EXT_CPU_ISA names an instruction set that is used on request alone, and it cannot be used.
struct SwitchOnError : std::runtime_error {
  explicit SwitchOnError(const std::string& words);
  std::string problem;
};

// The instruction set of the kernels: the best one that was built and that the processor has, or
// the one that the environment variable GUIDE_EXT_CPU_ISA names. Decided once. Intel AMX is used on
// request alone, after a check of its results.
// Throws std::runtime_error if GUIDE_EXT_CPU_ISA names none of these, or SwitchOnError.
const char* chosen_instruction_set();

}  // namespace guide::cpu
