// SPDX-License-Identifier: MIT
// What Python asks the library of the CPU: its instruction set, and its choice of a kernel.
#include <exception>
#include <string>

#include "attention/cpu/choose.h"
#include "attention/explain.h"

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

// Why GUIDE_EXT_CPU_ISA names an instruction set that is there and cannot be used; else null.
extern "C" __attribute__((visibility("default"))) const char*
guide_ext_cpu_switch_on_problem() noexcept {
  static thread_local std::string problem;
  try {
    guide::cpu::chosen_instruction_set();
    return nullptr;
  } catch (const guide::cpu::SwitchOnError& error) {
    problem = error.problem;
    return problem.c_str();
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
