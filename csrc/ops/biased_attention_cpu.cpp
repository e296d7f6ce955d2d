// SPDX-License-Identifier: MIT
// guide::biased_attention on the CPU.
#include <torch/csrc/stable/library.h>

#include "attention/cpu/forward.h"
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
