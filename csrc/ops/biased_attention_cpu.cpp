// SPDX-License-Identifier: MIT
// guide::biased_attention on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <exception>

#include "attention/cpu/forward.h"
#include "ops/biased_attention.h"
#include "ops/python_errors.h"

namespace {

// Beyond this the packed queries and keys of a task outgrow every cache.
constexpr std::int64_t kMaxHeadDim = 512;

void run_workers(std::int64_t workers, void (*body)(void* context, std::int64_t worker),
                 void* context) {
  torch::stable::parallel_for(0, workers, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t worker = begin; worker < end; ++worker) body(context, worker);
  });
}

bool has_kernel(const guide::Arguments& arguments) {
  return arguments.query.scalar_type() != torch::headeronly::ScalarType::Double &&
         arguments.query.size(3) <= kMaxHeadDim && arguments.value.size(3) <= kMaxHeadDim;
}

guide::Results run(const guide::Arguments& arguments) {
  if (!has_kernel(arguments)) {
    return guide::call_chunked(arguments);
  }
  const guide::Results results = guide::allocate_results(arguments);
  const guide::cpu::ThreadPool pool{torch::stable::get_num_threads(), run_workers};
  const guide::AttentionParams params = guide::pack_params(arguments, results);
  try {
    guide::cpu::forward(params, pool);
  } catch (const guide::cpu::OutOfMemory& error) {
    guide::check_memory(arguments.query, error.bytes);
    guide::cpu::forward(params, pool);  // somebody has freed some
  }
  return results;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(guide, CPU, library) {
  library.impl("biased_attention", TORCH_BOX(&guide::checked_op<run>));
}

// For `explain_dispatch` and `guide-ext doctor`. Null where GUIDE_EXT_CPU_ISA names an instruction
// set that cannot be used: the first call of the op says why.
extern "C" __attribute__((visibility("default"))) const char*
guide_ext_cpu_instruction_set() noexcept {
  try {
    return guide::cpu::chosen_instruction_set();
  } catch (const std::exception&) {
    return nullptr;
  }
}
