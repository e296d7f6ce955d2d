// SPDX-License-Identifier: MIT
// guide::biased_attention on the CPU.
#include <torch/csrc/stable/library.h>

#include <exception>
#include <string>

#include "attention/cpu/forward.h"
#include "attention/explain.h"
#include "ops/biased_attention.h"
#include "ops/python_errors.h"
#include "ops/workers_cpu.h"

namespace {

guide::Results run(const guide::Arguments& arguments) {
  guide::AttentionParams params = guide::pack_arguments(arguments);
  const guide::cpu::Choice choice = guide::cpu::choose(params);
  if (choice.kernel == nullptr) return guide::call_chunked(arguments);
  const guide::Results results = guide::allocate_results(arguments);
  guide::pack_results(results, params);
  const guide::cpu::ThreadPool pool = guide::torch_threads();
  try {
    guide::cpu::forward(params, choice, pool);
  } catch (const guide::cpu::OutOfMemory& error) {
    guide::check_memory(arguments.query, error.bytes);
    guide::cpu::forward(params, choice, pool);  // somebody has freed some
  }
  return results;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(guide, CPU, library) {
  library.impl("biased_attention", TORCH_BOX(&guide::checked_op<run>));
}

// For `guide-ext doctor`. Null where GUIDE_EXT_CPU_ISA names an instruction set that cannot be
// used: the first call of the op says why.
extern "C" __attribute__((visibility("default"))) const char*
guide_ext_cpu_instruction_set() noexcept {
  try {
    return guide::cpu::chosen_instruction_set();
  } catch (const std::exception&) {
    return nullptr;
  }
}

// For `explain_dispatch`: the choice of a kernel as text_of_choice() writes it. Null as above.
extern "C" __attribute__((visibility("default"))) const char* guide_ext_cpu_choose(
    const guide::CallDescription* call, int) noexcept {
  try {
    guide::Reasons reasons;
    const guide::cpu::Choice choice = guide::cpu::choose(guide::params_of(*call), &reasons);
    const std::string kernel =
        choice.kernel == nullptr ? "" : std::string("cpu/") + choice.kernel->name;
    return guide::text_of_choice(kernel, reasons);
  } catch (const std::exception&) {
    return nullptr;
  }
}
