// SPDX-License-Identifier: MIT
// guide::biased_attention by the AMX unit's prefill over the model, however few rows there are. The
// schema comes from Python.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <exception>
#include <stdexcept>
#include <thread>
#include <vector>

#include "amx_emulator.h"
#include "attention/cpu/choose.h"
#include "attention/cpu/forward.h"
#include "ops/biased_attention.h"

namespace guide::cpu {
extern const Kernel kKernelAmx;
}

namespace {

// What a worker of the call in progress has thrown: the first that the next line meets.
struct Faults {
  void (*body)(void* context, std::int64_t worker);
  void* context;
  std::vector<std::exception_ptr> of_worker;
};

void run_guarded(Faults& faults, std::int64_t worker) {
  try {
    faults.body(faults.context, worker);
    if (amx_emulator::tiles().is_configured()) {
      throw std::runtime_error("amx_emulator: a task leaves its tiles in use");
    }
  } catch (...) {
    faults.of_worker[static_cast<std::size_t>(worker)] = std::current_exception();
  }
}

// Each worker is a thread of its own, with tiles that nobody has configured.
void run_workers(std::int64_t workers, void (*body)(void* context, std::int64_t worker),
                 void* context) {
  Faults faults{body, context, std::vector<std::exception_ptr>(static_cast<std::size_t>(workers))};
  std::vector<std::thread> threads;
  for (std::int64_t worker = 0; worker < workers; ++worker) {
    threads.emplace_back([&faults, worker] { run_guarded(faults, worker); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& fault : faults.of_worker) {
    if (fault) std::rethrow_exception(fault);
  }
}

guide::Results run(const guide::Arguments& arguments) {
  guide::AttentionParams params = guide::pack_arguments(arguments);
  const guide::cpu::Kernel& kernel = guide::cpu::kKernelAmx;
  if (guide::cpu::choose(params).kernel == nullptr) return guide::call_chunked(arguments);
  const guide::Results results = guide::allocate_results(arguments);
  guide::pack_results(results, params);
  const std::int64_t threads = torch::stable::get_num_threads();
  guide::cpu::forward(params, {&kernel, &kernel.prefill}, {threads, run_workers});
  if (amx_emulator::tiles().is_configured()) {
    throw std::runtime_error("amx_emulator: a call leaves its tiles in use");
  }
  return results;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(guide_emulated_amx, CPU, library) {
  library.impl("biased_attention", TORCH_BOX(&guide::checked_op<run>));
}
